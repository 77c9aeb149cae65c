"""All controls: one line each. Answers without torch."""

from collections.abc import Sequence

from kcircuits.errors import UsageError
from kcircuits.study.controls.control import Control

CONTROLS: dict[str, Control] = {
    control.name: control
    for control in (
        Control(
            name="same-checkpoint",
            module="same_checkpoint",
            question="is a checkpoint scored twice the same, and one seen through other prompts?",
            n_scorings=1,
        ),
        Control(
            name="zero-rate",
            module="zero_rate",
            question="does training at learning rate 0, saving and loading change nothing?",
            n_scorings=1,
        ),
        Control(
            name="permuted-heads",
            module="permuted_heads",
            question="are renumbered heads seen as change, and told from it?",
            n_scorings=1,
        ),
        Control(
            name="planted-move",
            module="planted_move",
            question="is a circuit that moves found, at its epoch and with its edges?",
            n_scorings=0,
        ),
        Control(
            name="weight-noise",
            module="weight_noise",
            question="does turnover grow with noise on the weights?",
            n_scorings=5,
        ),
    )
}


def find_controls(names: Sequence[str]) -> tuple[Control, ...]:
    """The controls of these names, in the order of the registry; all for none.

    Raises:
        UsageError: There is no such control.
    """
    for name in names:
        if name not in CONTROLS:
            raise UsageError(
                f"there is no control {name!r}",
                field="controls",
                hint=f"choose from {', '.join(CONTROLS)}",
            )
    return tuple(control for name, control in CONTROLS.items() if not names or name in names)
