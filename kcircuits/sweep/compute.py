"""What an executor needs from a model.

The executors know only ``Compute``; the real one is ``model_compute``, and tests run whole sweeps
without a model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from kcircuits.core.batch import PromptBatch
from kcircuits.core.facts import Fact
from kcircuits.core.faithfulness import Faithfulness
from kcircuits.core.manifest import Checkpoint
from kcircuits.core.scores import EdgeScores
from kcircuits.core.topology import Topology


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A checkpoint in memory: the model, its graph and the hash of what was loaded."""

    model: Any
    topology: Topology
    content_hash: str


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """What one batch of facts gives.

    Attributes:
        scores: One matrix per discovery prompt; without the facts of ``failures``, None where
            those are all.
        faithfulness: Of the facts that have scores.
        probes: One row per probe prompt, of all facts.
        is_known: For each fact, whether the model knows it.
        failures: What happened to the facts that have no scores.
        n_circuit_edges: For each evaluated fact, the edges of its circuit without dangling nodes.
    """

    scores: EdgeScores | None
    faithfulness: Faithfulness | None = None
    probes: Sequence[Mapping[str, Any]] = ()
    is_known: Mapping[str, bool] = field(default_factory=dict)
    n_circuit_edges: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)


class Advance(Protocol):
    """Whom to tell of progress."""

    def __call__(self, n_prompts: int, note: str = "", /) -> object:
        """So many prompts more are done; a note says how it goes."""
        ...


class Compute(Protocol):
    """Models and numbers, as an executor sees them."""

    def load(self, checkpoint: Checkpoint, previous: Loaded | None) -> Loaded:
        """The checkpoint in memory, in the place of the previous one; CheckpointError if not."""
        ...

    def tokenize(self, loaded: Loaded, facts: Sequence[Fact]) -> PromptBatch:
        """All prompts of the facts."""
        ...

    def attribute(
        self, loaded: Loaded, batch: PromptBatch, n_edges: int, advance: Advance
    ) -> BatchResult:
        """Scores, circuits at the budget and their evaluation; tells finished prompts."""
        ...


class LateCompute:
    """A ``Compute`` that is made when it is first used, since making it may import torch."""

    def __init__(self, make: Callable[[], Compute]) -> None:
        self._make = make

    @cached_property
    def _made(self) -> Compute:
        return self._make()

    def load(self, checkpoint: Checkpoint, previous: Loaded | None) -> Loaded:
        """See ``Compute``."""
        return self._made.load(checkpoint, previous)

    def tokenize(self, loaded: Loaded, facts: Sequence[Fact]) -> PromptBatch:
        """See ``Compute``."""
        return self._made.tokenize(loaded, facts)

    def attribute(
        self, loaded: Loaded, batch: PromptBatch, n_edges: int, advance: Advance
    ) -> BatchResult:
        """See ``Compute``."""
        return self._made.attribute(loaded, batch, n_edges, advance)
