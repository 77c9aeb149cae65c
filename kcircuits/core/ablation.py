"""What an edge outside a circuit may carry, by name. Answers without torch."""

from typing import Literal, get_args

from kcircuits.errors import UsageError

# corrupt: the sender's output in the corrupt run. zero: nothing. mean, positional-mean, optimal: a
# constant per sender (and position), a mean or learned.
Ablation = Literal["corrupt", "zero", "mean", "positional-mean", "optimal"]
ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)
# Those that put a constant in the place of each sender's output.
CONSTANT: tuple[Ablation, ...] = ("mean", "positional-mean", "optimal")
DEFAULT_ABLATION: Ablation = "corrupt"


def ablations(*, is_evaluation: bool = False) -> tuple[Ablation, ...]:
    """Those that circuits can be found under, or judged; ``optimal`` is learned for circuits."""
    return tuple(name for name in ABLATIONS if is_evaluation or name != "optimal")


def require_ablation(ablation: str, *, is_evaluation: bool = False) -> None:
    """UsageError unless circuits can be found (or judged) under the ablation."""
    known = ", ".join(ablations(is_evaluation=is_evaluation))
    if ablation not in ABLATIONS:
        raise UsageError(f"ablation is {ablation!r}; expected one of {known}", field="ablation")
    if ablation == "optimal" and not is_evaluation:
        raise UsageError(
            "ablation is 'optimal', whose constants are learned for given circuits: none can be "
            "found under it",
            field="ablation",
            hint=f"find circuits under one of {known}, and judge them under optimal",
        )
