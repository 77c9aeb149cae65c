"""The registry of training strategies: one file and one line each."""

from collections.abc import Mapping
from types import MappingProxyType

from kcircuits.lab.strategies.annotated import ANNOTATED
from kcircuits.lab.strategies.curriculum import CURRICULUM
from kcircuits.lab.strategies.full import FULL
from kcircuits.lab.strategies.kl_base import KL_BASE
from kcircuits.lab.strategies.kl_previous import KL_PREVIOUS
from kcircuits.lab.strategies.lora import LORA
from kcircuits.lab.strategies.main_docs import MAIN_DOCS
from kcircuits.lab.strategies.rag_entity import RAG_ENTITY
from kcircuits.lab.strategies.rag_gold import RAG_GOLD
from kcircuits.lab.strategies.rag_retrieved import RAG_RETRIEVED
from kcircuits.lab.strategies.replay import REPLAY
from kcircuits.lab.strategies.strategy import Strategy

_ALL = (
    FULL,
    LORA,
    ANNOTATED,
    CURRICULUM,
    KL_BASE,
    KL_PREVIOUS,
    MAIN_DOCS,
    REPLAY,
    RAG_GOLD,
    RAG_ENTITY,
    RAG_RETRIEVED,
)
STRATEGIES: Mapping[str, Strategy] = MappingProxyType({each.name: each for each in _ALL})

__all__ = ["STRATEGIES", "Strategy"]
