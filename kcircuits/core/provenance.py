"""Where a number comes from: enough to compute it again and to tell whether two compare."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

# Raised whenever the same inputs would give other numbers; part of every cell's key.
NUMERICS_VERSION = 3


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Method, parameters and model of a result.

    Attributes:
        method: Name in the registry, e.g. ``eap-ig-inputs``.
        params: All parameters of the method, defaults filled in; JSON values.
        checkpoint: Content hash of the checkpoint, if it came from a folder.
        dtype: Floating-point type of the computation.
        numerics: ``NUMERICS_VERSION`` when the result was made.
        is_importance: The scores are importances already, higher is better: mask probabilities,
            or attributions of a metric that is better when lower. Otherwise importance is the
            negative score.
    """

    method: str
    params: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    checkpoint: str | None = None
    dtype: str = "float32"
    numerics: int = NUMERICS_VERSION
    is_importance: bool = False
