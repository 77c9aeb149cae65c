"""How to train."""

from collections.abc import Sequence
from dataclasses import dataclass

from kcircuits.errors import UsageError
from kcircuits.lab.strategies import STRATEGIES


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How to train.

    Attributes:
        strategy: A name of ``STRATEGIES``.
        n_epochs: Epochs after the untrained one.
        lr: Constant learning rate.
        batch_size: Documents per optimiser step.
        seed: Of the order of documents, and of new weights where a strategy adds some.
        precision: ``float32``, ``bfloat16`` (autocast; the weights stay float32), or ``auto``,
            the faster of the two in one timed step on this machine.
        save_dtype: Data type of saved weights; None is the strategy's own. Training starts from
            weights rounded to it, so that epoch 0 is exactly where training begins.
        skills: What is measured at every epoch beside the probes: names for ``measure_skills``.
        max_tokens: Longer documents are read in parts of so many tokens; None reads them whole.
        questions: Open questions to ask for each fact at every epoch, at most; 0 asks none.
    """

    strategy: str = "full"
    n_epochs: int = 8
    lr: float = 1e-4
    batch_size: int = 8
    seed: int = 0
    precision: str = "float32"
    save_dtype: str | None = None
    skills: tuple[str, ...] = ()
    max_tokens: int | None = None
    questions: int = 0

    def __post_init__(self) -> None:
        allowed: dict[str, Sequence[str | None]] = {
            "strategy": tuple(STRATEGIES),
            "precision": ("float32", "bfloat16", "auto"),
            "save_dtype": ("float32", "bfloat16", None),
        }
        for field, values in allowed.items():
            if getattr(self, field) not in values:
                raise UsageError(
                    f"{field} {getattr(self, field)!r} does not exist",
                    field=field,
                    hint=f"choose from {', '.join(str(v) for v in values if v)}",
                )
        for field, low in (("n_epochs", 1), ("batch_size", 1), ("seed", 0), ("questions", 0)):
            if getattr(self, field) < low:
                raise UsageError(
                    f"{field} is {getattr(self, field)}; expected {low} or more", field=field
                )
        if self.max_tokens is not None and self.max_tokens < 2:
            raise UsageError(
                f"max_tokens is {self.max_tokens}; expected 2 or more", field="max_tokens"
            )
        if not 0 <= self.lr < 1:  # at 0 nothing is learned: a control of what does not change
            raise UsageError(f"lr is {self.lr:g}; expected 0 or a number below 1", field="lr")
