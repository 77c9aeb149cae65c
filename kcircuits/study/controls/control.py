"""What a control is: a question, what was done, and what was expected and measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kcircuits.analysis.overlap.verdict import too_few

if TYPE_CHECKING:
    from kcircuits.study.controls.bench import Bench
    from kcircuits.study.diff.diff import Diff

Verdict = Literal["passed", "failed", "cannot-tell"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One expectation of a control.

    Attributes:
        expected: What was expected.
        measured: What was found.
        is_met: Whether that is the same; None where it cannot be told.
        reason: Why it cannot be told.
    """

    expected: str
    measured: str
    is_met: bool | None
    reason: str = ""

    @property
    def verdict(self) -> Verdict:
        """The check in one word."""
        return "cannot-tell" if self.is_met is None else "passed" if self.is_met else "failed"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a control.

    Attributes:
        did: What was done.
        checks: What was expected of it, and measured.
        rows: The numbers behind, one table.
    """

    did: str
    checks: Sequence[Check]
    rows: Sequence[dict[str, Any]] = ()

    @property
    def verdict(self) -> Verdict:
        """Failed if one check did; else not told if one is not."""
        met = [check.is_met for check in self.checks]
        return "failed" if False in met else "cannot-tell" if None in met else "passed"


@dataclass(frozen=True, kw_only=True)
class Control:
    """A control.

    Attributes:
        name: Name in the registry.
        module: Its module in this package, which has ``control(bench) -> Outcome``; imported when
            the control is run, since it needs torch.
        question: What it answers, in a line.
        n_scorings: How many times it scores the facts of the bench, for the time that it takes.
    """

    name: str
    module: str
    question: str
    n_scorings: int

    def run(self, bench: "Bench") -> Outcome:
        """Runs the control."""
        module = import_module(f"kcircuits.study.controls.{self.module}")
        control: Callable[[Bench], Outcome] = module.control
        return control(bench)


def verdict_check(row: dict[str, Any], expected: str, where: str = "") -> Check:
    """Whether a row of a diff has the verdict that it should have.

    Args:
        row: Of ``Diff.rows``.
        expected: The verdict.
        where: What was compared, if that does not go without saying.
    """
    turnover, low, high = (row[f"turnover{end}"] for end in ("", "_low", "_high"))
    measured = f"{row['verdict']}: turnover {number_text(turnover)}"
    if low is not None:
        measured += f" ({number_text(low)} to {number_text(high)})"
    is_told = row["verdict"] != "undetermined"
    return Check(
        expected=f"verdict {expected} over the facts{where}",
        measured=measured,
        is_met=row["verdict"] == expected if is_told else None,
        reason="" if is_told else row["reason"],
    )


def count_verdicts(diff: "Diff") -> tuple[int, int, str]:
    """How many facts are called changed, of how many tested, and what stands in the way of a test.

    The obstacle is empty where there is none; then facts whose circuits do not reproduce are the
    only ones that are not tested.
    """
    verdicts = [one.verdict for one in diff.fact_diffs]
    tested = [verdict for verdict in verdicts if np.isfinite(verdict.high)]
    obstacle = too_few(diff.n_prompts, len(verdicts)) or ("" if tested else verdicts[0].reason)
    return sum(verdict.word == "changed" for verdict in tested), len(tested), obstacle


def number_text(value: float | None) -> str:
    """Three digits; a dash for none."""
    return "-" if value is None else f"{value:.3f}"
