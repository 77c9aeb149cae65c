"""Which prompts run together, within a memory budget, and how chunks run side by side."""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int

from kcircuits.core.answers import max_rows_per_prompt
from kcircuits.core.batch import PromptBatch
from kcircuits.engine.footprint import projection_bytes
from kcircuits.errors import UsageError
from kcircuits.models.weights import TransformerWeights

ResultT = TypeVar("ResultT")

# Peak memory above the loaded model that a run keeps to unless told otherwise.
DEFAULT_MEMORY = 2**30
# One part in so many is not planned with: allocators keep some of what is freed.
_KEPT_BACK = 8

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_memory(text: str | int) -> int:
    """Bytes that ``1GiB``, ``512M`` or a plain number mean; UsageError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", str(text).lower())
    n_bytes = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if n_bytes < 1:
        raise UsageError(
            f"memory is {text!r}; expected a size such as 1GiB or 512MiB", field="memory"
        )
    return n_bytes


def plan_runs(
    weights: TransformerWeights, batch: PromptBatch, bytes_per_row: int, memory: int
) -> list[Int[np.ndarray, " _"]]:
    """``plan_chunks`` for as many workers as there are, with what each of them always takes.

    Args:
        weights: The model.
        batch: Prompts.
        bytes_per_row: Peak memory of one row, from ``engine.footprint``.
        memory: Budget in bytes.
    """
    return plan_chunks(
        batch,
        bytes_per_row * max_rows_per_prompt(batch),
        memory - memory // _KEPT_BACK,
        count_workers(weights),
        n_fixed=projection_bytes(weights),
    )


def plan_chunks(
    batch: PromptBatch,
    bytes_per_prompt: int,
    memory: int,
    n_workers: int = 1,
    *,
    n_fixed: int = 0,
) -> list[Int[np.ndarray, " _"]]:
    """Row indices of each chunk: prompts of like length and shared prefix run together.

    Args:
        batch: Prompts.
        bytes_per_prompt: Peak memory of one prompt.
        memory: Budget in bytes for all chunks that run side by side; one prompt always runs.
        n_workers: How many chunks run side by side; their number is a multiple of it.
        n_fixed: Bytes that each worker takes whatever the number of prompts.
    """
    order = np.lexsort((np.arange(len(batch)), batch.lengths, batch.prefix_lengths))
    largest = max(1, (memory // n_workers - n_fixed) // max(1, bytes_per_prompt))
    n_rounds = -(-len(order) // (largest * n_workers))
    size = max(1, -(-len(order) // max(1, n_rounds * n_workers)))
    return [order[start : start + size] for start in range(0, len(order), size)]


def count_workers(weights: TransformerWeights) -> int:
    """How many chunks run side by side: the threads that torch would use for one, on a CPU."""
    return torch.get_num_threads() if weights.device.type == "cpu" else 1


def run_chunks(
    plan: Sequence[Int[np.ndarray, " _"]],
    function: Callable[[Int[np.ndarray, " _"]], ResultT],
    n_workers: int,
) -> Iterator[tuple[Int[np.ndarray, " _"], ResultT]]:
    """Each chunk with its result, in the order of the plan.

    Chunks run side by side with one thread each: the products of a few prompts are too small to be
    shared between threads, which then wait for each other. Settings of torch's threads are as
    before afterwards.
    """
    if n_workers == 1 or len(plan) == 1:
        yield from ((index, function(index)) for index in plan)
        return
    n_threads = torch.get_num_threads()
    executor = ThreadPoolExecutor(n_workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from zip(plan, executor.map(function, plan), strict=True)
    finally:
        executor.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)
