"""All methods: one line each. Answers without torch."""

from collections.abc import Mapping
from typing import Any

from kcircuits.discovery.clean_corrupted import clean_corrupted
from kcircuits.discovery.eap import eap
from kcircuits.discovery.eap_ig_activations import eap_ig_activations
from kcircuits.discovery.eap_ig_inputs import eap_ig_inputs
from kcircuits.discovery.edge_pruning import edge_pruning
from kcircuits.discovery.exact import exact
from kcircuits.discovery.gim import gim
from kcircuits.discovery.method import Method
from kcircuits.discovery.relp import relp
from kcircuits.engine.metrics import get_metric
from kcircuits.errors import UsageError

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        eap_ig_inputs,
        eap,
        eap_ig_activations,
        clean_corrupted,
        relp,
        gim,
        exact,
        edge_pruning,
    )
}
DEFAULT_METHOD = eap_ig_inputs.name


def get_method(name: str) -> Method:
    """The method of that name; UsageError names those that exist."""
    if name not in METHODS:
        raise UsageError(
            f"there is no method {name!r}", field="method", hint=f"choose from {', '.join(METHODS)}"
        )
    return METHODS[name]


def resolve_params(method: str, metric: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a method, ``metric`` among them, checked and with defaults filled in.

    Args:
        method: Name of the method.
        metric: Name of the metric.
        params: The method's own parameters; absent ones take their defaults.

    Raises:
        UsageError: A method, metric or parameter that does not exist, a value that cannot be
            meant, or a metric that the method cannot differentiate.
    """
    chosen, measured = get_method(method), get_metric(metric)
    for name in params:
        if name not in chosen.defaults:
            raise UsageError(
                f"{name} = {params[name]!r} is no parameter of {method}",
                field=name,
                hint=f"leave it out; {method} takes {', '.join(['metric', *chosen.defaults])}",
            )
    if chosen.needs_clean_gradient and not measured.has_clean_gradient:
        raise UsageError(
            f"{method} cannot use the metric {metric}: its gradient at the clean run is zero",
            field="metric",
            hint=f"use the method {DEFAULT_METHOD}, or another metric",
        )
    settings = {**chosen.defaults, **params}
    chosen.check(settings)
    return {"metric": metric, **settings}
