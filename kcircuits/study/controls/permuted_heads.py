"""Heads renumbered within their layers: the same model, and circuits under other names.

Logits must stay, turnover must be large, and the cause must be told: that heads were permuted, in
which layers, and that nothing is left of the change once they have their old numbers back.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float

from kcircuits.analysis.overlap.permutation import MIN_ENTITIES, HeadMatch
from kcircuits.engine.forward import run_rows
from kcircuits.lab.ground_truth import WeightsModel
from kcircuits.lab.weight_changes import permute_heads, random_head_order
from kcircuits.models.parity import BOUNDS
from kcircuits.models.weights import TransformerWeights
from kcircuits.study.controls.bench import Bench
from kcircuits.study.controls.control import Check, Outcome, verdict_check
from kcircuits.study.head_match import match_cells, profiles_of, renumbered

# Heads without much score are told apart by nothing; the others must be given their right numbers.
MIN_RIGHT = 0.95


def control(bench: Bench) -> Outcome:
    """Renumbers all heads, and asks who is who."""
    weights = bench.model.weights
    order = random_head_order(weights, np.random.default_rng(bench.seed))
    permuted = permute_heads(weights, order)
    cells = bench.cells(WeightsModel(permuted, "permuted heads"))
    match = match_cells(bench.clean, cells, bench.run.facts)
    right = _share_right(bench, match.heads == np.argsort(order, axis=1))
    undone = [renumbered(cell, match.undoing) for cell in cells]
    return Outcome(
        did=f"gave every head of {bench.epoch} another number within its layer (seed {bench.seed})",
        checks=(
            _logits_check(bench, weights, permuted),
            verdict_check(bench.diff(bench.clean, cells).rows[0], "changed"),
            layers_check(match, np.ones(len(order), dtype=bool)),
            _heads_check(right),
            verdict_check(
                bench.diff(bench.clean, undone).rows[0],
                "no-change",
                " once the heads have their old numbers back",
            ),
        ),
        rows=[
            {
                "layer": layer,
                "as_named": float(match.as_named[layer]),
                "matched": float(match.matched[layer]),
                "is_permuted": bool(match.is_permuted[layer]),
                "share_right": float(right[layer]),
            }
            for layer in range(len(order))
        ],
    )


def layers_check(match: HeadMatch, expected: Bool[np.ndarray, " layer"]) -> Check:
    """Whether the layers that are said to be permuted are those; NaN bounds tell nothing."""
    wrong = np.flatnonzero(match.is_permuted != expected).tolist()
    is_told = not np.isnan(match.low).any()
    n_told = int(match.is_permuted.sum())
    return Check(
        expected=f"heads appear permuted in {int(expected.sum())} of {len(expected)} layers",
        measured=f"in {n_told}" + (f"; wrong in layers {wrong}" if wrong else ""),
        is_met=not wrong if is_told else None,
        reason="" if is_told else f"entities: {match.n_entities}; {MIN_ENTITIES} are needed",
    )


def _heads_check(right: Float[np.ndarray, " layer"]) -> Check:
    least = int(right.argmin())
    return Check(
        expected=f"heads with {MIN_RIGHT:.0%} of each layer's scores get their numbers back",
        measured=f"{right[least]:.1%} in layer {least}, the least; {right.mean():.1%} on average",
        is_met=bool(right[least] >= MIN_RIGHT),
    )


def _share_right(
    bench: Bench, is_right: Bool[np.ndarray, "layer head"]
) -> Float[np.ndarray, " layer"]:
    """Share of each layer's |profiles| that belongs to heads rightly matched; 1 without any."""
    sizes = sum(np.abs(profiles_of((cell, cell))[0]).sum((0, 3)) for cell in bench.clean)
    total = np.sum(sizes, axis=1)
    return np.where(total > 0, (sizes * is_right).sum(1) / np.where(total > 0, total, 1), 1.0)


def _logits_check(bench: Bench, before: TransformerWeights, after: TransformerWeights) -> Check:
    tokens, bound = bench.model.probe.tokens, BOUNDS[before.dtype]
    with torch.no_grad():
        old, new = (run_rows(weights, tokens).double() for weights in (before, after))
    share = float((old - new).abs().max() / old.abs().max())
    return Check(
        expected=f"logits stay, to {bound:g} of the largest",
        measured=f"{share:.1g} of the largest",
        is_met=share <= bound,
    )
