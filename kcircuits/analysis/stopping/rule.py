"""What a stopping rule sees, and what it says."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from kcircuits.errors import UsageError

Needs = Literal["loss", "knowledge", "ood", "turnover"]


@dataclass(frozen=True, kw_only=True)
class History:
    """What a run has shown up to now, the untrained model first; NaN where there is no number.

    Attributes:
        epochs: In training order.
        loss: Mean training loss of each epoch, in nats per token.
        knowledge: Mean knowledge on the probes, in 0..1.
        ood: Mean accuracy out of domain, in 0..1.
        turnover: Normalised turnover of the circuits since the epoch before: 0 none, 1 chance.
    """

    epochs: Float[np.ndarray, " epoch"]
    loss: Float[np.ndarray, " epoch"]
    knowledge: Float[np.ndarray, " epoch"]
    ood: Float[np.ndarray, " epoch"]
    turnover: Float[np.ndarray, " epoch"]

    def until(self, n_epochs: int) -> "History":
        """The first epochs alone: what a rule would have seen then."""
        return History(**{f.name: getattr(self, f.name)[:n_epochs] for f in fields(self)})

    def has(self, name: Needs) -> bool:
        """Whether a series has any number."""
        return bool(np.isfinite(getattr(self, name)).any())


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a rule says after an epoch.

    Attributes:
        is_stop: Whether training should stop here.
        pick: Place of the epoch whose weights the rule keeps.
    """

    is_stop: bool
    pick: int


@runtime_checkable
class StoppingRule(Protocol):
    """A rule: a frozen dataclass whose fields are its thresholds, fixed on *other* runs."""

    needs: ClassVar[Needs]

    def decide(self, history: History) -> Decision:
        """Stop or go on, from the epochs so far; at least one."""
        ...


def last(history: History) -> int:
    """Place of the newest epoch."""
    return len(history.epochs) - 1


def epochs_without_progress(
    values: Float[np.ndarray, " epoch"], min_rise: float
) -> tuple[int, int]:
    """For how many epochs a series has not risen by more than ``min_rise``; and its last rise.

    Each rise is measured from the level of the last one. Epochs without a number count neither
    way.

    Returns:
        Epochs since, and the place of the last rise; (0, -1) before any number.
    """
    best, at, since = -np.inf, -1, 0
    for i, value in enumerate(values.tolist()):
        if np.isnan(value):
            continue
        if at < 0 or value > best + min_rise:
            best, at, since = value, i, 0
        else:
            since += 1
    return since, at


def check_setting(rule: Any, name: str, *, at_least: float, is_whole: bool = False) -> None:
    """UsageError where a threshold of a rule cannot be meant.

    Args:
        rule: The rule.
        name: Of its setting.
        at_least: The smallest value.
        is_whole: It counts epochs or steps.
    """
    value = getattr(rule, name)
    if is_whole and not isinstance(value, int | np.integer):
        raise UsageError(
            f"{name} is {value}; expected a whole number", field=name, hint=f"e.g. {at_least}"
        )
    if not value >= at_least:
        raise UsageError(
            f"{name} is {value}; expected at least {at_least}", field=name, hint="raise it"
        )
