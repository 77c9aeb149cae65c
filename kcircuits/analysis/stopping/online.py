"""A stopping rule inside a training loop.

``kcircuits.observe`` and ``ProbeCallback`` take a function of the moments recorded so far::

    observe(..., stop=stop_when(stopping_rule("probe-peak", patience=2)))

The rule decides when to stop; which epoch it keeps is ``rule.decide(history_of(moments)).pick``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kcircuits.analysis.dynamics.ood import ood_average
from kcircuits.analysis.dynamics.series import Skill
from kcircuits.analysis.stopping.rule import History, StoppingRule

Moment = Mapping[str, Any]


def history_of(moments: Sequence[Moment]) -> History:
    """The history in rows ``epoch, loss, known, skills`` (and ``turnover``, where there is one)."""
    series = {
        name: np.array([_number(moment.get(name)) for moment in moments])
        for name in ("epoch", "loss", "known", "turnover")
    }
    names = dict.fromkeys(name for moment in moments for name in moment.get("skills") or {})
    skills = {
        name: Skill(
            accuracy=np.array(
                [_number((moment.get("skills") or {}).get(name)) for moment in moments]
            )
        )
        for name in names
    }
    return History(
        epochs=series["epoch"],
        loss=series["loss"],
        knowledge=series["known"],
        ood=ood_average(skills, len(moments)),
        turnover=series["turnover"],
    )


def stop_when(rule: StoppingRule) -> Callable[[Sequence[Moment]], bool]:
    """A function from the moments so far to whether training shall end, by a rule.

    Args:
        rule: As ``stopping_rule`` makes it. One that needs what the loop does not measure never
            stops.
    """

    def is_over(moments: Sequence[Moment]) -> bool:
        return bool(moments) and rule.decide(history_of(moments)).is_stop

    return is_over


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
