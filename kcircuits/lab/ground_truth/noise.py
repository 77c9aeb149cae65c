"""A known circuit in a noisy model: small random numbers added to every weight.

The weights of a trained model are nowhere exactly zero. Here every edge has some effect, and a
method has to find the circuit's edges among many that matter little, not among many that do not
matter at all. What the circuit is, is still known: it is the one that was written down.
"""

from dataclasses import replace
from functools import partial

import torch

from kcircuits.lab.ground_truth.ground_truth import BY_PATCHING, Build, GroundTruth, KnownCircuit
from kcircuits.lab.weight_changes import add_noise

SCALE = 0.01


def with_noise(
    truth: GroundTruth,
    *,
    largest_outside: float,
    recovered_by: frozenset[str] = BY_PATCHING,
    scale: float = SCALE,
) -> GroundTruth:
    """The same model with Gaussian noise of standard deviation ``scale`` on its weights.

    Args:
        truth: Whose circuits are known.
        largest_outside: As in ``GroundTruth``.
        recovered_by: As in ``GroundTruth``; of many edges' effects the noise leaves only exact
            patching sure.
        scale: Of the noise; the hand-written weights are of order 1.
    """
    return replace(
        truth,
        name=f"{truth.name}, noisy",
        build=partial(_build, of=truth.build, scale=scale),
        largest_outside=largest_outside,
        recovered_by=recovered_by,
        summary=f"{truth.name} with noise of {scale:g} on every weight",
    )


def _build(
    seed: int, dtype: torch.dtype = torch.float64, *, of: Build, scale: float
) -> KnownCircuit:
    known = of(seed, dtype)
    return replace(known, weights=add_noise(known.weights, scale, seed))
