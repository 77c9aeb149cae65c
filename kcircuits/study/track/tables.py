"""The tables of a track over epochs: structure, births and deaths, layers, lifetimes, settling."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from kcircuits.analysis.overlap.corrected import Level
from kcircuits.analysis.overlap.jackknife import jackknife_ratio
from kcircuits.analysis.overlap.turnover import MIN_CEILING
from kcircuits.analysis.survival import SpellCounts, life_table
from kcircuits.analysis.temporal.lifespans import add_spells
from kcircuits.analysis.temporal.structure import layer_sizes
from kcircuits.core.topology import Topology
from kcircuits.study.diff.tables import number
from kcircuits.study.track.groups import (
    MIN_ENTITIES,
    FactTrack,
    mean_interval,
    stacked,
    subjects,
)

Row = dict[str, Any]
Values = Float[np.ndarray, " fact"]
Counted = Bool[np.ndarray, " fact"]


def epoch_rows(
    members: Sequence[FactTrack], epochs: Sequence[str], level: Level, seed: int
) -> list[Row]:
    """Rows of ``Track.rows`` for one stratum."""
    known = stacked(members, lambda c: c.is_known)
    there = stacked(members, lambda c: c.has_cell)
    compared = stacked(members, lambda c: c.is_compared)
    levels, steps = _levels(members, level), _steps(members, level)
    noise = _diagonals(members)
    entities = subjects(members)
    rows: list[Row] = []
    for i, epoch in enumerate(epochs):
        row: Row = {
            "epoch": epoch,
            "facts": int(there[:, i].sum()),
            "known": int(known[:, i].sum()),
        }
        for name, values in levels.items():
            row |= interval_row(name, values[:, i], known[:, i], entities, seed)
        for name, values in noise.items():
            row[name] = number(mean_interval(values[:, i], known[:, i], entities, seed)[0])
        step = i - 1
        counted = compared[:, step] if i else np.zeros(len(members), dtype=bool)
        row["compared"] = int(counted.sum()) if i else None
        for name, values in steps.items():
            column = values[:, step] if i else np.full(len(members), np.nan)
            if name in _WITH_INTERVAL:
                row |= interval_row(name, column, counted, entities, seed)
            else:
                row[name] = number(mean_interval(column, counted, entities, seed)[0])
        rows.append(row | step_turnover(members, counted, np.full(len(members), max(step, 0))))
    return rows


def layer_rows(
    members: Sequence[FactTrack], epochs: Sequence[str], topology: Topology, seed: int
) -> list[Row]:
    """Rows of ``Track.layers`` for one stratum."""
    sizes = np.maximum(layer_sizes(topology), 1)
    ratio = stacked(members, lambda c: c.structure.layer_edges) / sizes
    apart = stacked(members, lambda c: c.layers_apart) / sizes
    known, entities = stacked(members, lambda c: c.is_known), subjects(members)
    return [
        {
            "epoch": epoch,
            "layer": layer - 1,
            "facts": int(known[:, i].sum()),
            **interval_row("ratio", ratio[:, i, layer], known[:, i], entities, seed),
            "ratio_noise": number(
                mean_interval(apart[:, i, layer], known[:, i], entities, seed)[0]
            ),
        }
        for i, epoch in enumerate(epochs)
        for layer in range(len(sizes))
    ]


def life_rows(members: Sequence[FactTrack], seed: int) -> list[Row]:
    """Rows of ``Track.life_table`` for one stratum."""
    kinds = {
        "observed": [one.circuits.spells for one in members],
        "swapped": [one.circuits.swapped.spells for one in members],
    }
    return [
        {"labels": name, **row}
        for name, counts in kinds.items()
        for row in _life_rows(add_spells(counts), subjects(members), seed)
    ]


_WITH_INTERVAL = ("births", "deaths", "entropy_change", "depth_change")


def _levels(members: Sequence[FactTrack], level: Level) -> dict[str, np.ndarray]:
    """What is averaged at each epoch, [fact, epoch]."""
    return {
        "entropy": stacked(members, lambda c: c.structure.entropy),
        "depth": stacked(members, lambda c: c.structure.depth),
        "present": stacked(members, lambda c: c.items(level).in_both.sum(1)),
        "hubs": stacked(members, lambda c: c.hubs.in_both.sum(1)),
    }


def _diagonals(members: Sequence[FactTrack]) -> dict[str, np.ndarray]:
    """Differences between halves at each epoch, [fact, epoch]."""
    return {
        "entropy_noise": stacked(members, lambda c: np.diag(c.entropy_apart)),
        "depth_noise": stacked(members, lambda c: np.diag(c.depth_apart)),
    }


def _steps(members: Sequence[FactTrack], level: Level) -> dict[str, np.ndarray]:
    """What is averaged at each step, [fact, step]."""
    return {
        "births": stacked(members, lambda c: c.items(level).born.sum(1)),
        "deaths": stacked(members, lambda c: c.items(level).died.sum(1)),
        "kept": stacked(members, lambda c: c.items(level).kept.sum(1)),
        "hubs_born": stacked(members, lambda c: c.hubs.born.sum(1)),
        "hubs_died": stacked(members, lambda c: c.hubs.died.sum(1)),
        "hubs_swapped": stacked(members, lambda c: c.swapped.hubs),
        "births_swapped": stacked(members, lambda c: c.swapped.born),
        "deaths_swapped": stacked(members, lambda c: c.swapped.died),
        "entropy_change": stacked(members, lambda c: np.diff(c.structure.entropy)),
        "entropy_moved": stacked(members, lambda c: np.diag(c.entropy_apart, 1)),
        "depth_change": stacked(members, lambda c: np.diff(c.structure.depth)),
        "depth_moved": stacked(members, lambda c: np.diag(c.depth_apart, 1)),
    }


def step_turnover(members: Sequence[FactTrack], counted: Counted, step: np.ndarray) -> Row:
    """Pooled turnover of one step of each fact that counts, as ``Diff.rows`` has it."""
    chosen: list[int] = np.flatnonzero(counted).tolist()
    names = ("turnover", "turnover_low", "turnover_high")
    if not len(chosen):
        return dict.fromkeys(names)
    at = [(members[i].circuits, int(step[i])) for i in chosen]
    if all(c.is_identical[s] for c, s in at):
        return dict.fromkeys(names, 0.0)
    own = np.array([np.diag(c.overlap)[s : s + 2] for c, s in at])
    if not (own.mean(0) >= MIN_CEILING).all():
        return dict.fromkeys(names)
    found = jackknife_ratio(
        np.array([c.step_overlaps[s] for c, s in at]),
        np.array([c.ceilings[s] for c, s in at]),
        subjects(members)[chosen],
    )
    return dict(zip(names, map(number, (found.estimate, found.low, found.high)), strict=True))


def interval_row(
    name: str, values: Values, counted: Counted, entities: np.ndarray, seed: int
) -> Row:
    """A mean over the facts that count as three fields, with its 95% interval over entities."""
    mean, low, high = mean_interval(values, counted, entities, seed)
    return {name: number(mean), f"{name}_low": number(low), f"{name}_high": number(high)}


def _life_rows(counts: SpellCounts, entities: np.ndarray, seed: int) -> list[Row]:
    table = life_table(counts, entities, seed=seed)
    looked = [len(np.unique(entities[there])) for there in (counts.at_risk > 0).T]
    ends = {
        "hazard_low": table.hazard_low, "hazard_high": table.hazard_high,
        "survival_low": table.low, "survival_high": table.high,
    }  # fmt: skip
    return [
        {
            "k": k + 1,
            "spells": table.n_spells,
            "at_risk": int(table.at_risk[k]),
            "died": int(table.ended[k]),
            "hazard": number(table.hazard[k]),
            "survival": number(table.survival[k]),
            **{
                name: number(end[k]) if looked[k] >= MIN_ENTITIES else None
                for name, end in ends.items()
            },
        }
        for k in range(len(table.at_risk))
        if table.at_risk[k]
    ]
