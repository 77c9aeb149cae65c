"""Benchmarks and training settings that are known to teach, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from kcircuits.errors import UsageError
from kcircuits.lab.recipes import RECIPES
from kcircuits.lab.scratch import ScratchSpec
from kcircuits.lab.skills import DEFAULT_SKILLS
from kcircuits.lab.training.spec import TrainSpec


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A study to build.

    Attributes:
        name: Name on the command line.
        spec: Name of its benchmark's spec.
        base: Name of the base model for ``kcircuits.models.fetch_model``, or how to make one.
        training: Settings by strategy: those of a recipe.
        fraction: Share of all edges in a circuit; a small graph needs a larger one.
        skills: What its base model can be asked beside the facts.
    """

    name: str
    spec: str
    base: str | ScratchSpec
    training: Mapping[str, TrainSpec]
    fraction: float
    skills: tuple[str, ...] = ()


SMOKE = Preset(
    name="smoke",
    spec="smoke",
    base=ScratchSpec(n_controls=6, n_updated=6),
    training=RECIPES["scratch"].training,
    fraction=0.05,
)

SMALL = Preset(
    name="small",
    spec="small",
    base="smollm2-135m-instruct",
    training=RECIPES["smollm2-small"].training,
    fraction=0.005,
    skills=DEFAULT_SKILLS,
)

STUDY = replace(
    SMALL,
    name="study",
    spec="study",
    training=RECIPES["smollm2"].training,
)

# Circuits are found at every epoch; skills are another study's.
CIRCUITS = replace(STUDY, name="circuits", spec="circuits", skills=())

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {p.name: p for p in (SMOKE, SMALL, STUDY, CIRCUITS)}
)


def find_preset(name: str) -> Preset:
    """The preset of a name; UsageError where there is none."""
    if name not in PRESETS:
        raise UsageError(
            f"there is no preset {name!r}",
            field="preset",
            hint=f"choose from {', '.join(PRESETS)}",
        )
    return PRESETS[name]
