"""The same checkpoint twice: nothing may be called a change.

Read from disk and scored a second time, its scores must be the same bit for bit, and the verdict
"identical scores". That takes no statistics; its twin does: the stored scores of one epoch, half of
each fact's prompts labelled as the epoch before and the other half as the epoch after. Other
prompts bring other noise, which is all that differs.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int

from kcircuits.analysis.overlap.halves import half_members, split_halves
from kcircuits.analysis.overlap.jackknife import Interval, jackknife_ratio
from kcircuits.analysis.overlap.verdict import IDENTICAL
from kcircuits.core.cell import Cell
from kcircuits.study.controls.bench import Bench
from kcircuits.study.controls.control import Check, Outcome, count_verdicts
from kcircuits.study.diff.diff import Diff
from kcircuits.sweep.cells import AGREEMENT, disagreement

# Of the facts, over all ways to halve the prompts; and of these ways, for all facts together.
MAX_ALARMS = 0.05
MAX_SPLITS_ALARMED = 1


def control(bench: Bench) -> Outcome:
    """Scores the checkpoint again, and halves the prompts of the run."""
    halves, rows = _halves_check(bench)
    return Outcome(
        did=f"loaded {bench.epoch} from disk twice and scored {len(bench.facts)} facts each time; "
        "labelled halves of the prompts of the stored scores as two epochs",
        checks=(
            *identity_checks(bench, bench.cells(bench.load())),
            stored_check(bench, bench.clean),
            halves,
        ),
        rows=rows,
    )


def identity_checks(bench: Bench, again: Sequence[Cell]) -> tuple[Check, Check]:
    """That cells have the very scores of the checkpoint, and that the diff says so."""
    different = [
        new.fact_id
        for old, new in zip(bench.clean, again, strict=True)
        if not (
            np.array_equal(old.candidates, new.candidates)
            and np.array_equal(old.prompt_scores, new.prompt_scores)
        )
    ]
    (row,) = bench.diff(bench.clean, again).rows
    return (
        Check(
            expected="every score identical",
            measured=f"{len(different)} of {len(again)} facts differ"
            + (f", e.g. {different[0]}" if different else ""),
            is_met=not different,
        ),
        Check(
            expected=f"turnover exactly 0, {IDENTICAL}",
            measured=f"turnover {row['turnover']}, {row['reason']}",
            is_met=row["turnover"] == 0 and row["reason"] == IDENTICAL,
        ),
    )


def stored_check(bench: Bench, cells: Sequence[Cell]) -> Check:
    """That cells that were computed now have the numbers that the run has stored."""
    stored = {cell.fact_id: cell for cell in bench.stored()}
    largest = max(disagreement(cell, stored[cell.fact_id]) for cell in cells)
    recorded = bench.run.request.settings["libraries"]
    installed = bench.settings.to_json()
    others = [name for name, version in recorded.items() if installed["libraries"][name] != version]
    if installed["device"] != bench.run.request.settings["device"]:
        others.append("device")
    is_met = largest <= AGREEMENT
    return Check(
        expected=f"scores of the run, to {AGREEMENT:g} of the largest",
        measured=f"{largest:.1g} of the largest",
        is_met=None if others and not is_met else is_met,
        reason=f"the run was computed with another {' and '.join(others)}" if others else "",
    )


def _halves_check(bench: Bench) -> tuple[Check, list[dict[str, Any]]]:
    stored = bench.stored()
    n_prompts = min(len(cell.prompt_idx) for cell in stored)
    rows: list[dict[str, Any]] = []
    diffs: list[Diff] = []
    for halves in zip(*half_members(split_halves(n_prompts)), strict=True):
        size = min(map(len, halves))
        diffs.append(bench.diff(*(with_prompts(stored, half[:size]) for half in halves)))
        n_changed, n_tested, _ = count_verdicts(diffs[-1])
        (row,) = diffs[-1].rows
        rows.append(
            {
                "prompts": (halves[0].tolist(), halves[1].tolist()),
                "changed": n_changed,
                "tested": n_tested,
                **{name: row[name] for name in ("turnover", "turnover_low", "turnover_high")},
                "verdict": row["verdict"],
            }
        )
    return halves_check(diffs), rows


def halves_check(diffs: Sequence[Diff]) -> Check:
    """That few facts and splits are called changed where nothing is.

    A few facts in seven splits do not tell a rate to a percent, so its interval over entities has
    to lie above the limit before the check fails.

    Args:
        diffs: Of each split of the prompts, one half against the other.
    """
    counts = [count_verdicts(diff) for diff in diffs]
    obstacle = counts[-1][2] if diffs else "one prompt has no halves"
    n_changed = sum(changed for changed, _, _ in counts)
    n_tested = sum(tested for _, tested, _ in counts)
    n_splits = sum(diff.rows[0]["verdict"] == "changed" for diff in diffs)
    is_met: bool | None = n_changed <= MAX_ALARMS * n_tested and n_splits <= MAX_SPLITS_ALARMED
    if not is_met and n_splits <= MAX_SPLITS_ALARMED and not _alarm_rate(diffs).low > MAX_ALARMS:
        is_met, obstacle = None, obstacle or "too few facts to tell their rate from the limit"
    return Check(
        expected=f"other prompts are no change: at most {MAX_ALARMS:.0%} of the tests of facts and "
        f"{MAX_SPLITS_ALARMED} of {len(diffs)} tests of all together say changed",
        measured=f"{n_changed} of {n_tested} of facts, {n_splits} of all together",
        is_met=None if obstacle else is_met,
        reason=obstacle,
    )


def _alarm_rate(diffs: Sequence[Diff]) -> Interval:
    """Share of the tests of facts that say changed; the interval is over entities."""
    tests = [
        (one.fact.subject, one.verdict.word)
        for diff in diffs
        for one in diff.fact_diffs
        if np.isfinite(one.verdict.high)
    ]
    quiet = np.array([word != "changed" for _, word in tests], dtype=float)
    return jackknife_ratio(quiet, np.ones(len(tests)), np.array([entity for entity, _ in tests]))


def with_prompts(cells: Sequence[Cell], half: Int[np.ndarray, " prompt"]) -> list[Cell]:
    """Cells of some of their prompts, under the names of the first ones."""
    return [
        replace(
            cell,
            prompt_idx=cell.prompt_idx[: len(half)],
            prompt_scores=cell.prompt_scores[half],
        )
        for cell in cells
    ]
