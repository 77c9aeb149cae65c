"""Edge pruning: learns which edges a circuit needs, for many facts at once.

Every fact has hard-concrete gates on its candidate edges. A step draws the gates, runs each fact's
circuit on one of its prompts, and moves log alpha down the gradient of the loss plus multiplier
times expected number of edges, each fact with its own multiplier. The multiplier is not ascended at
some rate but solved for in every step, so the expected number is the scheduled one throughout.

The wanted number goes down a stair from all candidates, a stage for each size: there it falls at
first and is held then. The circuit of a size is read off the gates as they were on average at the
end of its stage, since single steps see one prompt and one draw.

Source: Bhaskar, Wettig, Friedman, Chen 2024, arXiv 2406.16778. Deviations: gates on edges only (no
node gates), per fact; warm start and candidates from attribution; solved multipliers; momentum
with one scale per fact instead of AdamW; averages over steps.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kcircuits.discovery.hard_concrete import expected, move_to_count, sample

# Facts (indices), their gates [fact, edge] and the step -> losses [fact], gradients [fact, edge].
Measure = Callable[[Int[Tensor, " fact"], Tensor, int], tuple[Tensor, Tensor]]


class Step(NamedTuple):
    """What a training tells after every step.

    Attributes:
        number: Steps done, and
        n_steps: steps in all.
        loss: Mean over the facts of the loss of their drawn circuits.
        n_edges: Wanted number of edges, the expected number of each fact.
        n_facts: Facts still in training.
    """

    number: int
    n_steps: int
    loss: float
    n_edges: float
    n_facts: int


OnStep = Callable[[Step], object]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How gates are trained.

    Attributes:
        steps: Steps at each size; fewer at the last where every circuit has settled.
        lr: Move of a log alpha per step, at a gradient of the fact's root mean square.
        warmup: Share of a stage's steps in which the number of edges falls; then it is held.
        averaged: Share of a stage's steps, the last ones, that its circuit is the average of.
        spread: Log alpha of the best candidate at the start; the worst has its negative.
        seed: Of the draws.
    """

    steps: int = 60
    lr: float = 0.15
    warmup: float = 1 / 3
    averaged: float = 1 / 3
    spread: float = 6.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Gates at one size, on average over the last steps of its stage.

    Attributes:
        log_alpha: Log alpha.
        gates: Expected values of the gates.
    """

    log_alpha: Float[Tensor, "fact edge"]
    gates: Float[Tensor, "fact edge"]


# Smoothing of gradients and of their squares.
_MOMENTUM, _SCALING = 0.9, 0.98
# A fact's gradients are measured by their root mean square; few of them make all of it.
_LARGEST_PULL = 3.0
# Expected share of the candidates at the start.
_START = 0.9
# A circuit has settled when this share of its edges stayed from step to step, so many times.
_SETTLED, _PATIENCE = 0.99, 20


def train_gates(
    keys: Sequence[str],
    n_candidates: int,
    sizes: Sequence[int],
    measure: Measure,
    recipe: Recipe,
    on_step: OnStep | None = None,
) -> Mapping[int, Trained]:
    """Trains the gates of all facts down to the smallest size.

    A fact's draws depend on the seed and its key alone, so its circuit does not depend on the
    facts that are trained beside it. A fact whose circuit has settled at the smallest size leaves.

    Args:
        keys: One per fact.
        n_candidates: Candidate edges of each fact, in order of promise.
        sizes: Numbers of edges to take circuits at, each less than ``n_candidates``.
        measure: Loss and gradient of drawn gates.
        recipe: How.
        on_step: Told after every step.

    Returns:
        The gates at each size.
    """
    start, step = _START * n_candidates, 0
    n_steps = recipe.steps * len(set(sizes))
    state = _State(keys, n_candidates, recipe, start)
    reached: dict[int, Trained] = {}
    for size in sorted(set(sizes), reverse=True):
        average = _Average(state.log_alpha)
        for of_stage in range(1, recipe.steps + 1):
            active, step = state.active, step + 1
            gates = sample(state.log_alpha[active], [state.generators[i] for i in active.tolist()])
            losses, gradient = measure(active, gates.values, step - 1)
            wanted = _scheduled(of_stage, recipe, start, float(size))
            state.move(active, gradient * gates.slope, step, wanted)
            if of_stage > (1 - recipe.averaged) * recipe.steps or of_stage == recipe.steps:
                average.add(active, state.log_alpha[active])
            if on_step is not None:
                on_step(Step(step, n_steps, float(losses.mean()), wanted, len(active)))
            if size == min(sizes) and wanted <= size:
                state.settle(active, size)
            if not len(state.active):
                break
        reached[size], start = average.result(state.log_alpha), float(size)
    return reached


class _Average:
    """Means over steps, of each fact over those in which it was trained."""

    def __init__(self, like: Float[Tensor, "fact edge"]) -> None:
        self.log_alpha, self.gates = torch.zeros_like(like), torch.zeros_like(like)
        self.count = like.new_zeros(len(like), 1)

    def add(self, active: Int[Tensor, " fact"], log_alpha: Float[Tensor, "fact edge"]) -> None:
        """One step of the facts that are in training."""
        self.log_alpha[active] += log_alpha
        self.gates[active] += expected(log_alpha)
        self.count[active] += 1

    def result(self, last: Float[Tensor, "fact edge"]) -> Trained:
        """The means; where a fact left before, its last gates."""
        missing = torch.nonzero(self.count[:, 0] == 0)[:, 0]
        self.add(missing, last[missing])
        return Trained(log_alpha=self.log_alpha / self.count, gates=self.gates / self.count)


class _State:
    """The gates of all facts and what the optimiser remembers of each."""

    def __init__(
        self, keys: Sequence[str], n_candidates: int, recipe: Recipe, start: float
    ) -> None:
        self.recipe = recipe
        self.generators = [torch.Generator().manual_seed(_seed(recipe.seed, key)) for key in keys]
        ramp = torch.linspace(recipe.spread, -recipe.spread, n_candidates).repeat(len(keys), 1)
        self.log_alpha = move_to_count(ramp, start)
        self.mean, self.square = torch.zeros_like(ramp), torch.zeros_like(ramp)
        self.chosen: Tensor | None = None
        self.n_stable = torch.zeros(len(keys), dtype=torch.long)

    @property
    def active(self) -> Int[Tensor, " fact"]:
        """Facts whose circuits have not settled."""
        return torch.nonzero(self.n_stable < _PATIENCE)[:, 0]

    def move(
        self, active: Int[Tensor, " fact"], gradient: Tensor, step: int, wanted: float
    ) -> None:
        """One step down the gradient, and along the constraint to the wanted number."""
        mean = _MOMENTUM * self.mean[active] + (1 - _MOMENTUM) * gradient
        square = _SCALING * self.square[active] + (1 - _SCALING) * gradient.square()
        self.mean[active], self.square[active] = mean, square
        # One scale per fact, not per edge: edges without effect must not drift as fast as others.
        scale = (square / (1 - _SCALING**step)).mean(1, keepdim=True).sqrt() + 1e-30
        pull = (mean / (1 - _MOMENTUM**step) / scale).clamp(-_LARGEST_PULL, _LARGEST_PULL)
        moved = self.log_alpha[active] - self.recipe.lr * pull
        self.log_alpha[active] = move_to_count(moved, wanted)

    def settle(self, active: Int[Tensor, " fact"], size: int) -> None:
        """Counts for how many steps each circuit has stayed what it is."""
        chosen = torch.zeros_like(self.log_alpha, dtype=torch.bool)
        chosen.scatter_(1, self.log_alpha.topk(size, 1).indices, True)
        if self.chosen is not None:
            kept = (chosen & self.chosen).sum(1)[active] / size
            self.n_stable[active] = torch.where(kept >= _SETTLED, self.n_stable[active] + 1, 0)
        self.chosen = chosen


def _seed(seed: int, key: str) -> int:
    """A seed for each fact, from the seed of all and the fact's key."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8]) >> 1


def _scheduled(of_stage: int, recipe: Recipe, start: float, stop: float) -> float:
    """The wanted number of edges in a stage: falls by equal factors, then stays."""
    share = min(1.0, of_stage / max(1.0, recipe.warmup * recipe.steps))
    return stop if share == 1.0 else start * (stop / start) ** share


def gates_as_masks(
    gates: Float[Tensor, "fact edge"], candidates: Int[Tensor, "fact edge"], shape: Sequence[int]
) -> Float[Tensor, "fact n_forward n_backward"]:
    """Gates at their edges (flat indices), 0 elsewhere."""
    n_forward, n_backward = shape
    masks = gates.new_zeros(len(gates), n_forward * n_backward)
    return masks.scatter_(1, candidates, gates).unflatten(1, (n_forward, n_backward))
