"""The stopping rules by name: one line each, the only place that lists them."""

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from kcircuits.analysis.stopping.circuit_turnover import CircuitTurnover
from kcircuits.analysis.stopping.loss_plateau import LossPlateau
from kcircuits.analysis.stopping.lowest_loss import LowestLoss
from kcircuits.analysis.stopping.ood_guard import OodGuard
from kcircuits.analysis.stopping.probe_peak import ProbePeak
from kcircuits.analysis.stopping.probe_plateau import ProbePlateau
from kcircuits.analysis.stopping.rule import StoppingRule
from kcircuits.errors import UsageError

RULES: Mapping[str, type[Any]] = MappingProxyType(
    {
        "lowest-loss": LowestLoss,
        "loss-plateau": LossPlateau,
        "probe-plateau": ProbePlateau,
        "probe-peak": ProbePeak,
        "ood-guard": OodGuard,
        "circuit-turnover": CircuitTurnover,
    }
)


def stopping_rule(name: str, **settings: Any) -> StoppingRule:
    """A rule, to be asked after each epoch: ``stopping_rule("probe-peak", patience=2)``.

    Args:
        name: A name of ``RULES``.
        settings: Its thresholds, where not the default.

    Raises:
        UsageError: No such rule or setting, or a value that cannot be meant.
    """
    if name not in RULES:
        raise UsageError(
            f"there is no stopping rule {name!r}", field="rule",
            hint=f"the rules are {', '.join(RULES)}",
        )  # fmt: skip
    known = [field.name for field in fields(RULES[name])]
    for setting in settings:
        if setting not in known:
            raise UsageError(
                f"{name} has no setting {setting!r}",
                field=setting,
                hint=f"its settings are {', '.join(known)}" if known else "it has none",
            )
    return RULES[name](**settings)
