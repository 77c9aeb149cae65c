"""Several processes that train one model: the main one probes and writes, the others wait."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from kcircuits.errors import UsageError

Result = TypeVar("Result")


def is_distributed() -> bool:
    """Whether other processes train the same model."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_main_process() -> bool:
    """Whether this process is the one that probes and writes, or the only one."""
    if is_distributed():
        return torch.distributed.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"  # as accelerate and torchrun start processes


def on_main(work: Callable[[], Result]) -> Result:
    """Works in the main process while the others wait; all get the result, or an error.

    Raises:
        UsageError: In the other processes, where the work failed in the main one.
    """
    if not is_distributed():
        return work()
    failure: Exception | None = None
    shared: list[Any] = [None, None]  # what went wrong, and the result
    if is_main_process():
        try:
            shared[1] = work()
        except Exception as cause:  # the others have to be told of any, or they wait for ever
            failure = cause
            shared[0] = f"{type(cause).__name__}: {cause}"
    torch.distributed.broadcast_object_list(shared, src=0)
    if failure is not None:
        raise failure
    if shared[0] is not None:
        raise UsageError(f"the main process failed: {shared[0]}")
    return shared[1]


@contextmanager
def parting() -> Iterator[None]:
    """Around the work of a whole process: at its end the processes let go of each other.

    Where one exits while another still holds a connection to it, the other may be aborted.
    """
    try:
        yield
        if is_distributed():
            torch.distributed.barrier()
    finally:
        if is_distributed():
            torch.distributed.destroy_process_group()


def require_one_device(n_gpu: int) -> None:
    """UsageError where one process would train on several GPUs."""
    if n_gpu > 1:
        raise UsageError(
            f"one process trains on {n_gpu} GPUs, where losses cannot be counted",
            field="n_gpu",
            hint="start one process per GPU (accelerate launch, torchrun), or set "
            "CUDA_VISIBLE_DEVICES",
        )
