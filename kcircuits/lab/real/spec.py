"""Which real facts a benchmark holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kcircuits.errors import UsageError

SPLITS = ("trained", "updated", "control")
PRIORS = ("known", "partly", "unknown")


@dataclass(frozen=True, kw_only=True)
class RealSpec:
    """Numbers of real facts by split and by what the base model knows before training.

    Attributes:
        relations: What is asked: names of real relations.
        facts: Number of facts by split, then by prior. Splits: ``trained``, told as they are;
            ``updated``, told with another answer; ``control``, in no document. Priors: ``known``,
            more than half of a fact's prompts; ``unknown``, none; ``partly``, what lies between.
    """

    relations: tuple[str, ...] = ("capital",)
    facts: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        for split, priors in self.facts.items():
            if split not in SPLITS:
                raise UsageError(
                    f"real facts have no split {split!r}",
                    field=f"real.{split}",
                    hint=f"choose from {', '.join(SPLITS)}",
                )
            for prior, n_facts in priors.items():
                if prior not in PRIORS or n_facts < 0:
                    raise UsageError(
                        f"{n_facts} real facts of prior {prior!r}; expected 0 or more of "
                        f"{', '.join(PRIORS)}",
                        field=f"real.{split}",
                    )
