"""Further intervals and floors of the overlap between all pairs of epochs; none comes for free.

- Prompts drawn again, with replacement within each half, at all epochs alike: how far turnover
  depends on which prompts ask for these facts. They are drawn by position, the same in all facts,
  for facts share templates.
- Epoch labels swapped prompt by prompt, each template in all facts at once: the turnover that no
  change would show, for every pair of epochs.
- Circuits with the degrees of a half's circuit, by double-edge swaps: a floor that knows hubs.
"""

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.overlap.all_pairs import (
    EpochHalves,
    Table,
    epoch_halves,
    pair_overlaps,
    symmetric,
)
from kcircuits.analysis.overlap.corrected import Items, Level, n_shared
from kcircuits.analysis.overlap.halves import half_members, split_halves
from kcircuits.analysis.overlap.jackknife import CONFIDENCE
from kcircuits.analysis.overlap.pair_summary import fact_ceilings
from kcircuits.analysis.overlap.swap_test import ALPHA, joint_totals
from kcircuits.analysis.overlap.turnover import compare_fact
from kcircuits.core.bootstrap import percentiles
from kcircuits.core.topology import Topology

Pair = tuple[int, int]
Labellings = Float[np.ndarray, "2 relabelling"]
N_PROMPT_DRAWS = 100


def prompt_draws(
    scores: Float[np.ndarray, "epoch prompt candidate"],
    n_edges: int,
    items: Items,
    *,
    n_draws: int = N_PROMPT_DRAWS,
    seed: int = 0,
) -> Float[np.ndarray, "draw epoch epoch"]:
    """The table of k of one fact from prompts drawn again within the halves of each split.

    Args:
        scores: As in ``fact_pairs``; at least two prompts.
        n_edges: The budget n.
        items: What circuits are compared by.
        n_draws: Number of draws.
        seed: Of the draws, which depend on it and on the number of prompts alone.
    """
    n_prompts = scores.shape[1]
    rng = np.random.default_rng([seed, n_prompts])
    members = half_members(split_halves(n_prompts))
    made = np.empty((n_draws, len(scores), len(scores)))
    for draw in made:
        drawn = [
            np.take_along_axis(half, rng.integers(0, half.shape[1], half.shape), 1)
            for half in members
        ]
        draw[:] = pair_overlaps(epoch_halves(scores, n_edges, members=drawn), items)
    return made


def prompt_interval(
    draws: Float[np.ndarray, "fact draw epoch epoch"],
    is_compared: Bool[np.ndarray, "fact epoch epoch"],
) -> tuple[Table, Table]:
    """95% interval of turnover over the facts, from their ``prompt_draws``."""
    own = np.diagonal(draws, axis1=2, axis2=3)
    tops, bottoms = (
        np.where(is_compared[:, None], values, 0).sum(0) for values in (draws, fact_ceilings(own))
    )
    is_valid = bottoms > 0
    tau = 1 - tops / np.where(is_valid, bottoms, 1)
    low, high = percentiles(tau, CONFIDENCE, is_valid=is_valid)
    there = is_compared.any(0)
    return np.where(there, low, np.nan), np.where(there, high, np.nan)


def swapped_pairs(
    scores: Float[np.ndarray, "epoch prompt candidate"],
    n_edges: int,
    items: Mapping[Level, Items],
    level: Level,
) -> dict[Pair, Labellings]:
    """k_st and ceiling of one fact under every swap of two epochs' labels, for each pair."""
    found: dict[Pair, Labellings] = {}
    for s, t in combinations(range(len(scores)), 2):
        one = compare_fact(scores[[s, t]], n_edges, items, level)
        found[s, t] = np.stack([one.k_st, one.ceilings])
    return found


def swap_null(
    facts: Sequence[Mapping[Pair, Labellings]],
    templates: Sequence[Sequence[Hashable]],
    is_compared: Bool[np.ndarray, "fact epoch epoch"],
    *,
    seed: int = 0,
) -> tuple[Table, Table]:
    """Where turnover stands among its values under swapped labels.

    Args:
        facts: ``swapped_pairs`` of each fact, by places of epochs.
        templates: The template of each prompt of each fact; equal ones swap jointly.
        is_compared: Which facts enter each pair.
        seed: Of the swaps drawn, where they are too many to list.

    Returns:
        For each pair of epochs the share of the labellings, the observed one counted, whose
        turnover reaches the one observed; and the turnover that one labelling in twenty reaches.
    """
    p, high = (np.full(is_compared.shape[1:], np.nan) for _ in range(2))
    for s, t in combinations(range(len(p)), 2):
        inside = np.flatnonzero(is_compared[:, s, t])
        inside = [i for i in inside.tolist() if (s, t) in facts[i]]
        if not inside:
            continue
        top, bottom = (
            joint_totals(
                [facts[i][s, t][row] for i in inside], [templates[i] for i in inside], seed=seed
            )
            for row in range(2)
        )
        tau = 1 - top / np.where(bottom > 0, bottom, np.nan)
        if not np.isfinite(tau[0]):
            continue
        reached = tau >= tau[0] - 1e-9
        p[s, t] = p[t, s] = reached.mean()
        high[s, t] = high[t, s] = np.nanquantile(tau, 1 - ALPHA, method="higher")
    return p, high


def degree_chance(
    halves: EpochHalves,
    candidates: Int[np.ndarray, " candidate"],
    topology: Topology,
    *,
    name: str,
    seed: int = 0,
) -> Table:
    """Overlap o of circuits with the degrees of the halves', one draw for each of the first split.

    Drawing one takes some 20 ms, so it is one split and one draw; the mean over facts is what
    has few enough errors to be read.

    Args:
        halves: Circuits of one fact.
        candidates: Flat index of each candidate edge.
        topology: The graph.
        name: The fact's id; draws depend on it and on the seed.
        seed: Of the draws.
    """
    # networkx takes longer to import than the rest takes to answer
    from kcircuits.core.circuit import Circuits
    from kcircuits.core.random_circuits import random_circuits

    sides = []
    for side, masks in enumerate(halves.masks[:, 0]):
        wide = np.zeros((len(masks), topology.n_forward * topology.n_backward), dtype=bool)
        wide[:, candidates[halves.kept]] = masks
        circuits = Circuits.from_mask(
            wide.reshape(-1, topology.n_forward, topology.n_backward),
            topology,
            fact_ids=tuple(f"{name} {side} {epoch}" for epoch in range(len(masks))),
        )
        (drawn,) = random_circuits(circuits, seed=seed, match="degree")
        sides.append(drawn.mask.reshape(len(masks), -1))
    shared = n_shared(*sides)
    size = np.sqrt(sides[0].sum(1)[:, None] * sides[1].sum(1)[None, :])
    return symmetric(shared / np.where(size > 0, size, np.inf))
