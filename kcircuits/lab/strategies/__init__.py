"""The registry of training strategies: one file and one line each."""

from collections.abc import Mapping
from types import MappingProxyType

from kcircuits.lab.strategies.full import FULL
from kcircuits.lab.strategies.lora import LORA
from kcircuits.lab.strategies.strategy import Strategy

STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {strategy.name: strategy for strategy in (FULL, LORA)}
)

__all__ = ["STRATEGIES", "Strategy"]
