"""Whether circuits settle: steps aligned at acquisition, and change from first to last epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kcircuits.analysis.overlap.corrected import Level
from kcircuits.study.diff.tables import number
from kcircuits.study.track.groups import (
    ACQUIRED,
    KNOWN_BEFORE,
    NEVER_KNOWN,
    FactTrack,
    mean_interval,
    stacked,
    subjects,
)
from kcircuits.study.track.tables import interval_row, step_turnover

Row = dict[str, Any]


def settling_rows(facts: Sequence[FactTrack], seed: int) -> list[Row]:
    """Rows of ``Track.settling``.

    Facts known before and facts never known are aligned at their first epoch, and stand beside:
    if the circuits of facts that are never known calm down as much, it is training that calms down
    and not knowledge that settles.
    """
    rows: list[Row] = []
    for group in (ACQUIRED, KNOWN_BEFORE, NEVER_KNOWN):
        members = [one for one in facts if one.knowledge == group]
        rows += _settling(members, group, seed) if members else []
    return rows


def trend_rows(members: Sequence[FactTrack], level: Level, seed: int) -> list[Row]:
    """Rows of ``Track.trends`` for one stratum."""
    known = stacked(members, lambda c: c.is_known)
    first, last = known.argmax(1), known.shape[1] - 1 - known[:, ::-1].argmax(1)
    counted, fact = known.sum(1) > 1, np.arange(len(members))
    apart = {
        "entropy": stacked(members, lambda c: c.entropy_apart),
        "depth": stacked(members, lambda c: c.depth_apart),
    }
    measures = {
        "entropy": stacked(members, lambda c: c.structure.entropy),
        "depth": stacked(members, lambda c: c.structure.depth),
        "present": stacked(members, lambda c: c.items(level).in_both.sum(1)),
        "hubs": stacked(members, lambda c: c.hubs.in_both.sum(1)),
    }
    rows: list[Row] = []
    for name, values in measures.items():
        change = values[fact, last] - values[fact, first]
        row: Row = {"measure": name, "facts": int(counted.sum())}
        row |= interval_row("change", change, counted, subjects(members), seed)
        moved = noise = np.full(len(members), np.nan)
        if name in apart:
            table = apart[name]
            moved = table[fact, first, last]
            noise = (table[fact, first, first] + table[fact, last, last]) / 2
        for field, column in (("moved", moved), ("noise", noise)):
            row[field] = number(mean_interval(column, counted, subjects(members), seed)[0])
        rows.append(row)
    return rows


def _settling(members: Sequence[FactTrack], group: str, seed: int) -> list[Row]:
    entities, n_steps = subjects(members), len(members[0].circuits.is_compared)
    start = np.array([one.acquisition or int(one.circuits.has_cell.argmax()) for one in members])
    there = stacked(members, lambda c: c.has_cell)
    known = stacked(members, lambda c: c.is_known)
    at_both = there if group == NEVER_KNOWN else known
    counted = at_both[:, 1:] & at_both[:, :-1]
    born, died, null = _births(members)
    fact = np.arange(len(members))
    rows: list[Row] = []
    first = np.full(len(members), np.nan)
    for since in range(n_steps):
        step = np.minimum(start + since, n_steps - 1)
        inside = (start + since < n_steps) & counted[fact, step]
        if not inside.any():
            continue
        changed = np.where(inside, born[fact, step] + died[fact, step], np.nan)
        first = changed if since == 0 else first
        rows.append(
            {
                "group": group,
                "step": since,
                "facts": int(inside.sum()),
                "entities": len(set(entities[inside])),
                **interval_row("births", born[fact, step], inside, entities, seed),
                **interval_row("deaths", died[fact, step], inside, entities, seed),
                "swapped": number(mean_interval(null[fact, step], inside, entities, seed)[0]),
                **interval_row("fewer", first - changed, inside, entities, seed),
                **step_turnover(members, inside, step),
            }
        )
    return rows


def _births(members: Sequence[FactTrack]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Births, deaths, and the sum of both under swapped labels, [fact, step]."""
    level = members[0].level
    born = stacked(members, lambda c: c.items(level).born.sum(1))
    died = stacked(members, lambda c: c.items(level).died.sum(1))
    return born, died, stacked(members, lambda c: c.swapped.born + c.swapped.died)
