"""Trackers of the user's choice (TensorBoard, Weights & Biases, ...), through the Trainer's own."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from kcircuits.errors import UsageError
from kcircuits.lab.training.callback import ProbeCallback
from kcircuits.lab.training.processes import is_main_process

Log = Callable[[dict[str, float]], None]
_LARGEST = 700.0  # nats, whose exponential is still a float


def check_trackers(names: Sequence[str]) -> None:
    """Makes sure, before any work, that every tracker is known and its package is there.

    Raises:
        UsageError: One is not.
    """
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise UsageError(
                f"there is no tracker {name!r}",
                field="report_to",
                hint=f"choose from none, {', '.join(sorted(INTEGRATION_TO_CALLBACK))}",
            )
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (ImportError, RuntimeError) as cause:
            raise UsageError(
                f"the tracker {name} is not installed: {' '.join(str(cause).split())[:200]}",
                field="report_to",
                hint=f"pip install {name.replace('_', '-')}",
            ) from cause


def step_log(loss: float, lr: float, tokens_per_second: float) -> dict[str, float]:
    """What a tracker is told of a step."""
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, _LARGEST)),
        "learning_rate": lr,
        "tokens_per_second": tokens_per_second,
    }


class EpochLog(TrainerCallback):
    """Tells the trackers what was found at an epoch: loss, share of facts known, skills.

    Args:
        log: The Trainer's ``log``.
        probes: What records the epoch, before this is called.
    """

    def __init__(self, log: Log, probes: ProbeCallback) -> None:
        self._log, self._probes = log, probes

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Tells of the untrained model, or of the epoch that training goes on after."""
        self._tell()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Tells of what was recorded just now."""
        self._tell()

    def _tell(self) -> None:
        if is_main_process():
            last = self._probes.observer.series[-1]
            found = {"known": last["known"]}
            found |= {f"epoch_{name}": last[name] for name in ("loss", "perplexity")}
            found |= {f"skill_{name}": accuracy for name, accuracy in last["skills"].items()}
            self._log({name: value for name, value in found.items() if value is not None})
