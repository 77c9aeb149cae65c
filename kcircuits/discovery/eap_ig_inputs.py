"""EAP with integrated gradients over input embeddings.

The gradient is averaged over embeddings e' + alpha (e - e') on a grid of n points. The grid
``left`` is k/n for k = 0..n-1, as the authors' library computes it since 2025 (point 0 is the
corrupt run); ``right`` is k = 1..n, as older versions and the paper do.
"""

from collections.abc import Mapping
from typing import Any

from kcircuits.discovery.method import Method
from kcircuits.engine.annotations import Question, Tensor, TokenRows, TransformerWeights
from kcircuits.errors import UsageError

GRIDS = {"left": 0, "right": 1}


def grid(ig_steps: int, ig_grid: str) -> tuple[float, ...]:
    """The points alpha of a grid."""
    first = GRIDS[ig_grid]
    return tuple((k + first) / ig_steps for k in range(ig_steps))


def _score(
    weights: TransformerWeights,
    rows: TokenRows,
    question: Question,
    params: Mapping[str, Any],
) -> Tensor:
    from kcircuits.engine.attribution import path_scores

    return path_scores(weights, rows, question, grid(params["ig_steps"], params["ig_grid"]))


def check_steps(params: Mapping[str, Any]) -> None:
    """UsageError unless ``ig_steps`` is a whole number of at least 1."""
    steps = params["ig_steps"]
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise UsageError(
            f"ig_steps is {steps!r}; expected a whole number of at least 1", field="ig_steps"
        )


def _check(params: Mapping[str, Any]) -> None:
    check_steps(params)
    if params["ig_grid"] not in GRIDS:
        raise UsageError(
            f"ig_grid is {params['ig_grid']!r}; expected one of {', '.join(GRIDS)}",
            field="ig_grid",
        )


eap_ig_inputs = Method(
    name="eap-ig-inputs",
    score=_score,
    defaults={"ig_steps": 5, "ig_grid": "left"},
    check=_check,
    n_steps=lambda params: params["ig_steps"],
    source="Hanna, Pezzelle, Belinkov 2024, arXiv 2403.17806",
)
