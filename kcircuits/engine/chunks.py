"""Which prompts run together, within a memory budget, and how chunks run side by side."""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int

from kcircuits.core.batch import PromptBatch
from kcircuits.errors import UsageError
from kcircuits.models.weights import TransformerWeights

ResultT = TypeVar("ResultT")

# Peak memory above the loaded model that a run keeps to unless told otherwise.
DEFAULT_MEMORY = 2**30

# Tensors that a layer keeps for its backward, in units of the widths below; counted from
# engine/forward.py and checked against the measured peak by benchmarks/attribution.py.
_KEPT_D_MODEL = 9
_KEPT_HEADS = 12
_KEPT_D_MLP = 4

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


def recorded_bytes(weights: TransformerWeights, n_pos: int, n_steps: int) -> int:
    """Bytes per prompt of a differentiated forward with ``n_steps`` points and all senders."""
    topology = weights.topology
    heads = topology.n_heads * weights.d_head
    kept = _KEPT_D_MODEL * weights.d_model + _KEPT_HEADS * heads + _KEPT_D_MLP * weights.d_mlp
    kept += 4 * topology.n_heads * n_pos
    graph = topology.n_layers * kept * n_steps
    senders = topology.n_forward * (weights.d_model + 4 * topology.n_heads)
    logits = 6 * len(weights.unembed) * n_steps // max(n_pos, 1)
    return n_pos * (graph + senders + logits) * weights.embed.element_size()


def masked_bytes(weights: TransformerWeights, n_pos: int) -> int:
    """Bytes per prompt of a masked forward."""
    topology = weights.topology
    private = 8 * 3 * topology.n_heads * weights.d_model
    cached = topology.n_layers * (4 * weights.d_model + 4 * topology.n_heads * weights.d_head)
    senders = topology.n_forward * weights.d_model
    logits = 4 * len(weights.unembed) // max(n_pos, 1)
    masks = topology.n_forward * topology.n_backward // max(n_pos, 1)
    return n_pos * (private + cached + senders + logits + masks) * weights.embed.element_size()


def gradient_bytes(weights: TransformerWeights, n_pos: int) -> int:
    """Bytes per prompt of a masked forward that is differentiated."""
    # On top of a recorded run: private inputs of all layers and gradients at all senders.
    topology = weights.topology
    wide = topology.n_forward + (topology.n_layers + 1) * (3 * topology.n_heads + 1)
    masks = 4 * topology.n_forward * topology.n_backward
    kept = (wide * n_pos * weights.d_model + masks) * weights.embed.element_size()
    return recorded_bytes(weights, n_pos, 1) + kept


def plan_chunks(
    batch: PromptBatch, bytes_per_prompt: int, memory: int, n_workers: int = 1
) -> list[Int[np.ndarray, " _"]]:
    """Row indices of each chunk: prompts of like length and shared prefix run together.

    Args:
        batch: Prompts.
        bytes_per_prompt: Peak memory of one prompt.
        memory: Budget in bytes for all chunks that run side by side; one prompt always runs.
        n_workers: How many chunks run side by side; their number is a multiple of it.
    """
    order = np.lexsort((np.arange(len(batch)), batch.lengths, batch.prefix_lengths))
    largest = max(1, memory // max(1, bytes_per_prompt) // n_workers)
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
