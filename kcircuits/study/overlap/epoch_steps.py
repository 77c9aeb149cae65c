"""Steps between epochs of a run, with tests and verdicts: each epoch against another.

What ``kcircuits diff`` says of two epochs, for all steps of a track at once, and judged as such:
with several steps one looks several times. So the q of a fact is adjusted by Holm over the steps at
which it is tested, and so is the joint p of a stratum.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from kcircuits.analysis.overlap.corrected import Level
from kcircuits.analysis.overlap.swap_test import JointTest, joint_step_tests, joint_totals
from kcircuits.analysis.overlap.verdict import hold_over_steps, is_testable
from kcircuits.core.parallel import ordered_map
from kcircuits.errors import UsageError
from kcircuits.study.checked_facts import CheckedFacts
from kcircuits.study.diff.fact_diff import FactDiff, compare_cells, group_by_stratum, judge_step
from kcircuits.study.diff.tables import stratum_row
from kcircuits.study.fact_cells import FactCells

if TYPE_CHECKING:
    import plotly.graph_objects as go

Row = dict[str, Any]
Against = Literal["previous", "first", "last"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: the two epochs, and the facts that have a result at both."""

    epochs: tuple[str, str]
    facts: tuple[FactDiff, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class EpochSteps:
    """Steps of a run, judged; see ``EpochOverlap.against``.

    Attributes:
        against: What each epoch is compared with.
        steps: The steps in training order; those at which no fact has both results are left out.
        by: Stratum key of the rows; None for one stratum ``all``.
    """

    against: Against
    steps: tuple[Step, ...]
    by: str | None = None

    @classmethod
    def from_facts(
        cls,
        facts: Iterable[FactCells],
        *,
        epochs: Sequence[str],
        against: Against,
        level: Level = "edge",
        by: str | None = None,
        n_workers: int | None = None,
    ) -> "EpochSteps":
        """Compares and judges.

        Args:
            facts: Facts with their cells at the epochs, read once.
            epochs: Names of the epochs.
            against: ``previous``, ``first`` or ``last``.
            level: Compare edges or nodes.
            by: Stratum key (or ``relation``) to group facts by.
            n_workers: Threads; the results do not depend on it.

        Raises:
            UsageError: Another ``against``, or fewer than two epochs.
            IncomparableError: Cells do not compare.
        """
        pairs = step_pairs(len(epochs), against)
        checked = CheckedFacts(facts, epochs)

        def compare(one: FactCells) -> list[FactDiff | None]:
            found: list[FactDiff | None] = []
            for start, stop in pairs:
                old, new = one.cells[start], one.cells[stop]
                if old is None or new is None:
                    found.append(None)
                    continue
                topology = checked.first.topology
                found.append(compare_cells(one.fact, (old, new), topology, level).without_items())
            return found

        grid = list(ordered_map(compare, checked, n_workers=n_workers))
        steps = []
        for place, (start, stop) in enumerate(pairs):
            names = (epochs[start], epochs[stop])
            drafts = [line[place] for line in grid]
            judged = judge_step([draft for draft in drafts if draft is not None], names)
            steps.append(Step(epochs=names, facts=judged))
        return cls(against=against, steps=_held(steps), by=by)

    @cached_property
    def rows(self) -> list[Row]:
        """One row per step and stratum: those of ``Diff.rows`` with ``from`` and ``to``.

        The verdict of a stratum rests on the joint swap test with p by Holm over the steps.
        """
        groups = [group_by_stratum(step.facts, self.by) for step in self.steps]
        tests = self._joint_tests(groups)
        return [
            {
                "from": step.epochs[0],
                "to": step.epochs[1],
                **stratum_row(name, members, joint=tests.get((place, name))),
            }
            for place, (step, group) in enumerate(zip(self.steps, groups, strict=True))
            for name, members in group.items()
        ]

    @cached_property
    def fact_rows(self) -> list[Row]:
        """The same of each fact by itself, with ``fact``, ``known`` and the adjusted ``q``."""
        return [
            {
                "from": step.epochs[0],
                "to": step.epochs[1],
                "fact": one.fact.id,
                "known": list(one.known),
                "q": None if one.verdict.p != one.verdict.p else one.verdict.p,
                **stratum_row(one.stratum(self.by), [one], one.verdict),
            }
            for step in self.steps
            for one in step.facts
        ]

    def grouped(self, by: str | None) -> "EpochSteps":
        """The same by another stratum."""
        return replace(self, by=by)

    def plot(self) -> "go.Figure":
        """Turnover over the steps, with intervals, per stratum."""
        # plotly takes longer to import than the steps may take to answer
        from kcircuits.plots.overlap import steps_figure

        return steps_figure(self.rows, against=self.against)

    def to_json(self) -> dict[str, Any]:
        """What the steps add to the document of an overlap."""
        return {"against": self.against, "steps": self.rows, "fact_steps": self.fact_rows}

    def __repr__(self) -> str:
        words = [
            f"{row['from']} -> {row['to']} {row['stratum']}: {_told(row)}" for row in self.rows
        ]
        return "\n".join([f"EpochSteps against {self.against}", *words])

    def _joint_tests(
        self, groups: Sequence[dict[str, list[FactDiff]]]
    ) -> dict[tuple[int, str], JointTest]:
        """The joint swap test of each stratum at each step at which it can be tested."""
        found: dict[tuple[int, str], JointTest] = {}
        for name in dict.fromkeys(name for group in groups for name in group):
            totals = {}
            for place, group in enumerate(groups):
                compared = [one for one in group.get(name, ()) if one.is_compared]
                if is_testable([one.overlap for one in compared]):
                    totals[place, name] = joint_totals(
                        [one.overlap.statistics for one in compared],
                        [one.templates for one in compared],
                    )
            if totals:
                found |= dict(zip(totals, joint_step_tests(list(totals.values())), strict=True))
        return found


def step_pairs(n_epochs: int, against: Against) -> list[tuple[int, int]]:
    """Places of the two epochs of each step, the earlier one first.

    Raises:
        UsageError: Another ``against``, or fewer than two epochs.
    """
    if against not in get_args(Against):
        raise UsageError(
            f"against is {against!r}; expected one of {', '.join(get_args(Against))}",
            field="against",
        )
    if n_epochs < 2:
        raise UsageError(
            f"{n_epochs} epoch has no step", field="epochs", hint="name two epochs or more"
        )
    return {
        "previous": [(i - 1, i) for i in range(1, n_epochs)],
        "first": [(0, i) for i in range(1, n_epochs)],
        "last": [(i, n_epochs - 1) for i in range(n_epochs - 1)],
    }[against]


def _held(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps with each fact's verdicts adjusted over them; those without facts left out."""
    verdicts: dict[str, dict[int, Any]] = {}
    for place, step in enumerate(steps):
        for one in step.facts:
            verdicts.setdefault(one.fact.id, {})[place] = one.verdict
    held = {
        fact_id: dict(zip(own, hold_over_steps(list(own.values())), strict=True))
        for fact_id, own in verdicts.items()
    }
    return tuple(
        replace(step, facts=tuple(replace(one, verdict=held[one.fact.id][i]) for one in step.facts))
        for i, step in enumerate(steps)
        if step.facts
    )


def _told(row: Row) -> str:
    turnover = "no turnover" if row["turnover"] is None else f"turnover {row['turnover']:.2f}"
    return f"{turnover}, {row['verdict']} ({row['reason']})"
