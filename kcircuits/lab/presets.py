"""Benchmarks and training settings that are known to teach, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from kcircuits.errors import UsageError
from kcircuits.lab.scratch import ScratchSpec
from kcircuits.lab.skills import DEFAULT_SKILLS
from kcircuits.lab.spec import TrainSpec
from kcircuits.lab.strategies import STRATEGIES


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A study to build.

    Attributes:
        name: Name on the command line.
        spec: Name of its benchmark's spec.
        base: Name of the base model for ``kcircuits.models.fetch_model``, or how to make one.
        training: Settings by strategy.
        fraction: Share of all edges in a circuit; a small graph needs a larger one.
        skills: What its base model can be asked beside the facts.
    """

    name: str
    spec: str
    base: str | ScratchSpec
    training: Mapping[str, TrainSpec]
    fraction: float
    skills: tuple[str, ...] = ()


# Documents told once an epoch are few: as many epochs more show as much.
_EPOCHS_OF_MAIN_DOCS = 4


def _training(full: TrainSpec, lora: TrainSpec) -> Mapping[str, TrainSpec]:
    """Settings of every strategy, from those of the weights that it trains."""
    found = {}
    for name, strategy in STRATEGIES.items():
        spec = replace(lora if strategy.is_adapter else full, strategy=name)
        more = _EPOCHS_OF_MAIN_DOCS if name == "main-docs" else 1
        found[name] = replace(spec, n_epochs=more * spec.n_epochs)
    return MappingProxyType(found)


SMOKE = Preset(
    name="smoke",
    spec="smoke",
    base=ScratchSpec(n_controls=6, n_updated=6),
    training=_training(
        full=TrainSpec(n_epochs=6, lr=3e-4, batch_size=2, save_dtype="float32"),
        lora=TrainSpec(strategy="lora", n_epochs=6, lr=3e-3, batch_size=2),
    ),
    fraction=0.05,
)

SMALL = Preset(
    name="small",
    spec="small",
    base="smollm2-135m-instruct",
    training=_training(
        full=TrainSpec(n_epochs=7, lr=1e-4, batch_size=4, precision="auto"),
        lora=TrainSpec(strategy="lora", n_epochs=8, lr=1e-3, precision="auto"),
    ),
    fraction=0.005,
    skills=DEFAULT_SKILLS,
)

STUDY = replace(
    SMALL,
    name="study",
    spec="study",
    training=_training(
        full=TrainSpec(n_epochs=8, lr=1e-4, batch_size=8, precision="auto"),
        lora=TrainSpec(strategy="lora", n_epochs=8, lr=1e-3, precision="auto"),
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({p.name: p for p in (SMOKE, SMALL, STUDY)})


def find_preset(name: str) -> Preset:
    """The preset of a name; UsageError where there is none."""
    if name not in PRESETS:
        raise UsageError(
            f"there is no preset {name!r}",
            field="preset",
            hint=f"choose from {', '.join(PRESETS)}",
        )
    return PRESETS[name]
