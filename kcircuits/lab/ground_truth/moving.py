"""A planted circuit that moves: one until some epoch, another from then on.

As in ``planted``, the graph of the computation holds the planted edges alone; each epoch has small
weight noise of its own. The prompts are such that both models answer them alike.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool

from kcircuits.core.batch import PromptBatch
from kcircuits.core.topology import Topology
from kcircuits.engine.forward import run_rows
from kcircuits.lab.ground_truth.planted import (
    D_VOCAB,
    MAX_DRAWS,
    MIN_GAP,
    N_POS,
    planted_weights,
    random_circuit,
)
from kcircuits.lab.weight_changes import add_noise
from kcircuits.models.weights import TransformerWeights

DENSITY = 0.4
_N_TRIED = 4096  # random prompts at once; a few in a hundred serve


@dataclass(frozen=True, kw_only=True)
class MovingCircuit:
    """Epochs of a model whose circuit moves once.

    Attributes:
        weights: The model at each epoch.
        moves_at: The first epoch of the second circuit.
        before: The edges of the first circuit.
        after: As many of the second.
        batch: Prompts that both answer with the target.
    """

    weights: tuple[TransformerWeights, ...]
    moves_at: int
    before: Bool[np.ndarray, "n_forward n_backward"]
    after: Bool[np.ndarray, "n_forward n_backward"]
    batch: PromptBatch


def build_moving(
    seed: int,
    *,
    n_epochs: int,
    moves_at: int,
    n_facts: int,
    n_prompts: int,
    noise: float,
    n_layers: int = 3,
    n_heads: int = 2,
    dtype: torch.dtype = torch.float32,
) -> MovingCircuit:
    """A circuit that moves.

    Args:
        seed: Of circuits, weights, prompts and noise.
        n_epochs: How many.
        moves_at: The first epoch of the second circuit; ``n_epochs`` for a circuit that stays.
        n_facts: Number of facts.
        n_prompts: Prompts of each.
        noise: Standard deviation of each epoch's noise, as a share of that of each matrix.
        n_layers: Depth.
        n_heads: Heads per layer.
        dtype: Of the weights.
    """
    topology = Topology(n_layers=n_layers, n_heads=n_heads)
    rng = np.random.default_rng(seed)
    before = random_circuit(topology, DENSITY, rng)
    after = _other_circuit(before, topology, rng)
    models = [
        planted_weights(circuit, topology, torch.Generator().manual_seed(seed + i), dtype)
        for i, circuit in enumerate((before, after))
    ]
    noises = rng.integers(2**32, size=n_epochs).tolist()
    return MovingCircuit(
        weights=tuple(
            add_noise(models[epoch >= moves_at], noise, noises[epoch], is_relative=True)
            for epoch in range(n_epochs)
        ),
        moves_at=moves_at,
        before=before,
        after=after,
        batch=_shared_prompts(models, n_facts, n_prompts, rng),
    )


def _other_circuit(
    circuit: Bool[np.ndarray, "n_forward n_backward"], topology: Topology, rng: np.random.Generator
) -> Bool[np.ndarray, "n_forward n_backward"]:
    """Another random circuit of as many edges."""
    for _ in range(MAX_DRAWS):
        other = random_circuit(topology, DENSITY, rng)
        if other.sum() == circuit.sum() and (other != circuit).any():
            return other
    raise AssertionError(f"no second circuit of {circuit.sum()} edges in {MAX_DRAWS} draws")


def _shared_prompts(
    models: list[TransformerWeights], n_facts: int, n_prompts: int, rng: np.random.Generator
) -> PromptBatch:
    """Random prompts that both models answer with one target, well above one foil."""
    wanted, kept = n_facts * n_prompts, []
    for _ in range(MAX_DRAWS):
        clean = rng.integers(0, D_VOCAB, (_N_TRIED, N_POS))
        corrupt = (clean + rng.integers(1, D_VOCAB, clean.shape)) % D_VOCAB
        with torch.no_grad():
            at_clean, at_corrupt = (
                torch.stack([run_rows(model, torch.as_tensor(ids)) for model in models])
                for ids in (clean, corrupt)
            )
        target, foil = at_clean[0].argmax(-1), at_corrupt[0].argmax(-1)
        gap = _difference(at_clean, target, foil) - _difference(at_corrupt, target, foil)
        is_shared = (at_clean.argmax(-1) == target).all(0) & (gap >= MIN_GAP).all(0)
        places = torch.nonzero(is_shared)[:, 0].numpy()
        answers = torch.stack([target, foil], 1).numpy()
        kept += [(clean[i], corrupt[i], answers[i]) for i in places]
        if len(kept) >= wanted:
            columns = [np.stack(column) for column in zip(*kept[:wanted], strict=True)]
            facts = np.repeat(np.arange(n_facts), n_prompts)
            return PromptBatch.from_tokens(*columns, fact_idx=facts)
    raise AssertionError(f"fewer than {wanted} prompts of use in {MAX_DRAWS} draws")


def _difference(logits: torch.Tensor, target: torch.Tensor, foil: torch.Tensor) -> torch.Tensor:
    """Logit difference [model, prompt]."""
    row = torch.arange(len(target))
    return logits[:, row, target] - logits[:, row, foil]
