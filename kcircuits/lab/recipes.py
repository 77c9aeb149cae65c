"""Settings of training by name: what is known to teach a model, for every strategy.

``seed`` is the study of Mousavi, Alghisi and Riccardi 2026 (arXiv:2601.03858, section 3): AdamW at
a constant rate of 1e-4 without decay, batches of 4 documents of at most 2,048 tokens, bfloat16, 10
epochs (100 on main documents), seed 42; LoRA of rank 32 and scale 64 on queries and values with the
token embedding trained in full, which is how the strategies here have it. It needs a GPU. The
others were found by trial, on a CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from kcircuits.errors import UsageError
from kcircuits.lab.strategies import STRATEGIES
from kcircuits.lab.training.spec import TrainSpec

# Strategies that the seed study has; the others go beyond it.
_OF_SEED = ("lora", "annotated", "curriculum", "kl-base", "kl-previous", "main-docs",
            "rag-gold", "rag-entity", "rag-retrieved")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of training.

    Attributes:
        name: Name on the command line.
        summary: A line for help and docs.
        models: What it is for: names for ``kcircuits.models.fetch_model``, or Hub ids.
        device: ``cpu`` or ``gpu``: what it takes.
        training: Settings by strategy.
        seed: Seed of the training; None for that of the benchmark.
    """

    name: str
    summary: str
    models: tuple[str, ...]
    device: str
    training: Mapping[str, TrainSpec]
    seed: int | None = None

    def of(self, strategy: str) -> TrainSpec:
        """The settings of a strategy; UsageError where the recipe has none."""
        if strategy not in self.training:
            raise UsageError(
                f"recipe {self.name!r} has no strategy {strategy!r}",
                field="strategy",
                hint=f"choose from {', '.join(self.training)}",
            )
        return self.training[strategy]


def by_strategy(
    full: TrainSpec,
    lora: TrainSpec,
    *,
    main_docs: int = 4,
    strategies: Sequence[str] = tuple(STRATEGIES),
) -> Mapping[str, TrainSpec]:
    """Settings of every strategy, from those of the weights that it trains.

    Args:
        full: Where every weight is trained.
        lora: Where an adapter is.
        main_docs: How many times more epochs main-docs has: told once an epoch, documents are few.
        strategies: Names.
    """
    found = {}
    for name in strategies:
        spec = replace(lora if STRATEGIES[name].is_adapter else full, strategy=name)
        more = main_docs if name == "main-docs" else 1
        found[name] = replace(spec, n_epochs=more * spec.n_epochs)
    return MappingProxyType(found)


_SEED = TrainSpec(
    strategy="lora",
    n_epochs=10,
    lr=1e-4,
    batch_size=4,
    seed=42,
    precision="bfloat16",
    max_tokens=2048,
)

_FULL = TrainSpec(n_epochs=8, lr=1e-4, batch_size=8, precision="auto")
_LORA = TrainSpec(strategy="lora", n_epochs=8, lr=1e-3, precision="auto")
_SMOLLM2 = Recipe(
    name="smollm2",
    summary="a benchmark of some thousand tokens an epoch",
    models=("smollm2-135m-instruct",),
    device="cpu",
    training=by_strategy(_FULL, _LORA),
)

_ALL = (
    Recipe(
        name="seed",
        summary="the study of Mousavi, Alghisi and Riccardi 2026",
        models=(
            "meta-llama/Llama-3.2-1B-Instruct",
            "meta-llama/Llama-3.1-8B-Instruct",
            "allenai/OLMo-7B-0724-Instruct-hf",
        ),
        device="gpu",
        training=by_strategy(_SEED, _SEED, main_docs=10, strategies=_OF_SEED),
        seed=42,
    ),
    _SMOLLM2,
    replace(
        _SMOLLM2,
        name="smollm2-small",
        summary="a smaller one: smaller batches",
        training=by_strategy(replace(_FULL, n_epochs=7, batch_size=4), _LORA),
    ),
    replace(
        _SMOLLM2,
        name="gemma3-270m",
        summary="as smollm2; not swept for this model",
        models=("gemma-3-270m",),
    ),
    Recipe(
        name="scratch",
        summary="a tiny model that is made on the spot",
        models=("scratch",),
        device="cpu",
        training=by_strategy(
            TrainSpec(n_epochs=6, lr=3e-4, batch_size=2, save_dtype="float32"),
            TrainSpec(strategy="lora", n_epochs=6, lr=3e-3, batch_size=2),
        ),
    ),
)
RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _ALL})


def find_recipe(name: str) -> Recipe:
    """The recipe of a name; UsageError where there is none."""
    if name not in RECIPES:
        raise UsageError(
            f"there is no recipe {name!r}",
            field="recipe",
            hint=f"choose from {', '.join(RECIPES)}",
        )
    return RECIPES[name]


def recipe_rows() -> list[dict[str, Any]]:
    """A row for each recipe and strategy that trains: its settings."""
    return [
        {
            "recipe": recipe.name,
            "device": recipe.device,
            "strategy": strategy,
            "epochs": spec.n_epochs,
            "lr": spec.lr,
            "batch_size": spec.batch_size,
            "precision": spec.precision,
            "max_tokens": spec.max_tokens,
            "seed": recipe.seed,
            "models": list(recipe.models),
        }
        for recipe in RECIPES.values()
        for strategy, spec in recipe.training.items()
        if STRATEGIES[strategy].is_training
    ]
