"""All attribution methods: one line each."""

from kcircuits.discovery.eap import eap
from kcircuits.discovery.eap_ig_inputs import eap_ig_inputs
from kcircuits.discovery.method import Method
from kcircuits.errors import UsageError

METHODS: dict[str, Method] = {method.name: method for method in (eap, eap_ig_inputs)}


def get_method(name: str) -> Method:
    """The method of that name; UsageError names those that exist."""
    if name not in METHODS:
        raise UsageError(
            f"there is no method {name!r}", field="method", hint=f"choose from {', '.join(METHODS)}"
        )
    return METHODS[name]
