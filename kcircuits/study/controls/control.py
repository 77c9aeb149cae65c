"""What a control is: a question, what was done, and what was expected and measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from kcircuits.study.controls.bench import Bench

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


def verdict_check(row: dict[str, Any], expected: str) -> Check:
    """Whether a row of a diff has the verdict that it should have."""
    turnover, low, high = (row[f"turnover{end}"] for end in ("", "_low", "_high"))
    measured = f"{row['verdict']}: turnover {_number(turnover)}"
    if low is not None:
        measured += f" ({_number(low)} to {_number(high)})"
    is_told = row["verdict"] != "undetermined"
    return Check(
        expected=f"verdict {expected} over the facts",
        measured=measured,
        is_met=row["verdict"] == expected if is_told else None,
        reason="" if is_told else row["reason"],
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
