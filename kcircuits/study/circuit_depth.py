"""Whether circuits move from deep to shallow layers while their facts are known."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kcircuits.analysis.dynamics.draws import ratio_interval
from kcircuits.study.diff_tables import number
from kcircuits.study.track import Track
from kcircuits.study.track_groups import ACQUIRED, KNOWN_BEFORE, FactTrack

Row = dict[str, Any]


def depth_rows(tracks: Sequence[tuple[str, Sequence[Track]]], seed: int = 0) -> list[Row]:
    """How the depth of circuits, the mean layer of their senders, changes.

    Args:
        tracks: Tracks by what their rows are called.
        seed: Of the intervals.

    Returns:
        Rows ``seed, group`` (facts acquired, or known before), ``facts``, ``entities``; ``start``,
        depth at the first epoch at which a fact is known, ``end``, at the last; ``change`` with its
        95% interval over entities; ``noise``, the mean size of the difference between halves of the
        prompts at one epoch. Facts that are known at a single epoch have no change.
    """
    return [
        {"seed": name, "group": group, **_row(members, seed)}
        for name, chosen in tracks
        for group in (ACQUIRED, KNOWN_BEFORE)
        if (members := [f for track in chosen for f in track.facts if _changes(f, group)])
    ]


def _changes(one: FactTrack, group: str) -> bool:
    return one.knowledge == group and int(one.circuits.is_known.sum()) >= 2


def _row(members: Sequence[FactTrack], seed: int) -> Row:
    ends = [np.flatnonzero(one.circuits.is_known)[[0, -1]] for one in members]
    depth = np.stack(
        [one.circuits.structure.depth[i] for one, i in zip(members, ends, strict=True)]
    )
    noise = [
        float(np.diag(one.circuits.depth_apart)[i].mean())
        for one, i in zip(members, ends, strict=True)
    ]
    entities = np.array([one.fact.subject for one in members])
    change = depth[:, 1] - depth[:, 0]
    mean, low, high = ratio_interval(change, np.ones(len(change)), entities, seed=seed)
    return {
        "facts": len(members),
        "entities": len(set(entities)),
        "start": number(float(depth[:, 0].mean())),
        "end": number(float(depth[:, 1].mean())),
        "change": number(float(mean)),
        "change_low": number(float(low)),
        "change_high": number(float(high)),
        "noise": number(float(np.mean(noise))),
    }
