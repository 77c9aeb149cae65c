"""Edge pruning as a method of sweeps: gates learned on folds of each fact's prompts."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from kcircuits.core.ablation import DEFAULT_ABLATION
from kcircuits.core.batch import PromptBatch
from kcircuits.core.scores import EdgeScores
from kcircuits.discovery.method import Method
from kcircuits.errors import UsageError

if TYPE_CHECKING:
    from kcircuits.models import Model

LossName = Literal["kl", "task", "kl+task"]
LOSSES: tuple[LossName, ...] = get_args(LossName)


def _train(
    model: "Model",
    batch: PromptBatch,
    n_edges: int,
    params: Mapping[str, Any],
    memory: int,
    progress: Callable[[float, str], object],
) -> EdgeScores:
    from kcircuits.discovery.prune import step_text
    from kcircuits.discovery.prune_folds import prune_folds
    from kcircuits.discovery.pruning import Recipe

    recipe = Recipe(steps=params["steps"], lr=params["lr"], seed=params["seed"])
    return prune_folds(
        model,
        batch,
        n_edges,
        n_folds=params["folds"],
        candidates=params["candidates"],
        loss=params["loss"],
        metric=params["metric"],
        ablation=params.get("ablation", DEFAULT_ABLATION),
        memory=memory,
        recipe=recipe,
        progress=lambda step: progress(step.number / step.n_steps, step_text(step)),
    )


def _check(params: Mapping[str, Any]) -> None:
    for name, least in (("steps", 1), ("folds", 1), ("seed", 0)):
        value = params[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(
                f"{name} is {value!r}; expected a whole number of at least {least}", field=name
            )
    if not isinstance(params["lr"], float | int) or not 0 < params["lr"] < 100:
        raise UsageError(f"lr is {params['lr']!r}; expected a number above 0", field="lr")
    if not isinstance(params["candidates"], float | int) or not 0 < params["candidates"] <= 1:
        raise UsageError(
            f"candidates is {params['candidates']!r}; expected a share above 0 and up to 1",
            field="candidates",
        )
    if params["loss"] not in LOSSES:
        raise UsageError(
            f"loss is {params['loss']!r}; expected one of {', '.join(LOSSES)}", field="loss"
        )


edge_pruning = Method(
    name="edge-pruning",
    train=_train,
    defaults={
        "steps": 60,
        "lr": 0.15,
        "candidates": 0.1,
        "loss": "kl",
        "folds": 4,
        "seed": 0,
    },
    check=_check,
    has_levels=False,
    source="Bhaskar, Wettig, Friedman, Chen 2024, arXiv 2406.16778",
)
