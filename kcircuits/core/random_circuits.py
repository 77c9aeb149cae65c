"""Random circuits as large as given ones: what a circuit's faithfulness has to beat.

Three baselines, each keeping more of the circuit than the one before:

- ``size``: as many edges, anywhere.
- ``layer``: as many edges in every block (sender layer x receiver layer x kind of receiver).
- ``degree``: every sender writes to as many receivers, and every receiver reads as many senders.
  Drawn by double-edge swaps: two edges a->x and b->y become a->y and b->x where both are edges of
  the model and new to the circuit, otherwise all stays (and that counts as a step, or circuits
  with few possible swaps would be drawn too often). All circuits of the given degrees can be
  reached so: senders and receivers stand in computation order, and whichever of the senders
  involved comes last, the receivers that it can write to can be written to by all others.

Every circuit of its kind is equally likely. Dangling nodes are left: the count of edges is what is
matched, and few random edges lie on a path from the input to the logits.

Source: Rao, Jana and Bandyopadhyay 1996 (swaps); Milo et al. 2003, cond-mat/0312028 (that refused
swaps count).
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int

from kcircuits.core.blocks import edge_blocks
from kcircuits.core.candidates import flat_edges
from kcircuits.core.circuit import Circuits
from kcircuits.core.topology import Topology
from kcircuits.errors import UsageError

Match = Literal["size", "layer", "degree"]
Edges = Int[np.ndarray, " edge"]

# Proposed swaps per edge of the circuit. With 20 a draw shares no more edges with the circuit than
# two draws share with each other (123 to 1,230 of 123,211 edges, uneven degrees); the rest is
# margin.
SWAPS_PER_EDGE = 50


def random_circuits(
    circuits: Circuits, *, seed: int, n_draws: int = 1, match: Match = "size"
) -> Iterator[Circuits]:
    """Random circuits that match each fact's circuit.

    A fact's draws depend on the seed, its id and its circuit alone, not on the other facts.

    Args:
        circuits: What to match; their edges as they are (pruned, if they were pruned).
        seed: Of the generators.
        n_draws: How many circuits to draw per fact.
        match: What is kept: ``size``, ``layer`` or ``degree``.

    Returns:
        One draw of all facts after the other, made when asked for.

    Raises:
        UsageError: Another ``match``, or fewer than one draw.
    """
    if match not in get_args(Match):
        raise UsageError(
            f"match is {match!r}; expected one of {', '.join(get_args(Match))}", field="match"
        )
    if n_draws < 1:
        raise UsageError(f"n_draws is {n_draws}; expected at least 1", field="n_draws")
    rewire = {"size": _anywhere, "layer": _within_blocks, "degree": _swapped}[match]
    return (_draw(circuits, rewire, seed, draw) for draw in range(n_draws))


def _draw(
    circuits: Circuits,
    rewire: Callable[[Edges, Topology, np.random.Generator], Edges],
    seed: int,
    draw: int,
) -> Circuits:
    topology = circuits.topology
    mask = np.zeros((len(circuits), topology.edge_mask.size), dtype=bool)
    for fact, (fact_id, chosen) in enumerate(zip(circuits.fact_ids, circuits.mask, strict=True)):
        digest = hashlib.sha256(fact_id.encode()).digest()
        generator = np.random.default_rng([seed, draw, int.from_bytes(digest[:8])])
        mask[fact, rewire(np.flatnonzero(chosen), topology, generator)] = True
    return replace(
        circuits,
        mask=mask.reshape(circuits.mask.shape),
        scores=None,
        n_selected=circuits.n_edges,
        n_ties=np.zeros_like(circuits.n_ties),
    )


def _anywhere(edges: Edges, topology: Topology, generator: np.random.Generator) -> Edges:
    """As many of all edges."""
    return generator.choice(flat_edges(topology), len(edges), replace=False)


def _within_blocks(edges: Edges, topology: Topology, generator: np.random.Generator) -> Edges:
    """As many edges of every block: the first ones of the block in a random order."""
    flat, blocks = flat_edges(topology), edge_blocks(topology)
    wanted = np.bincount(blocks[np.searchsorted(flat, edges)], minlength=blocks.max() + 1)
    offered = np.flatnonzero(wanted[blocks])
    shuffled = generator.permutation(offered)
    by_block = shuffled[np.argsort(blocks[shuffled], kind="stable")]
    block = blocks[by_block]
    place = np.arange(len(block)) - np.searchsorted(block, block)
    return flat[by_block[place < wanted[block]]]


def _swapped(edges: Edges, topology: Topology, generator: np.random.Generator) -> Edges:
    """The edges after many double-edge swaps."""
    if len(edges) < 2:
        return edges
    width = topology.n_backward
    # Plain lists and a set: each swap depends on those before it.
    n_senders = topology.n_senders.tolist()
    senders, receivers = (ends.tolist() for ends in np.divmod(edges, width))
    present: set[int] = set(edges.tolist())
    pairs = generator.integers(0, len(edges), (SWAPS_PER_EDGE * len(edges), 2))
    for i, j in zip(*pairs.T.tolist(), strict=True):
        a, b, x, y = senders[i], senders[j], receivers[i], receivers[j]
        if a >= n_senders[y] or b >= n_senders[x]:
            continue
        first, second = a * width + y, b * width + x
        if first in present or second in present:  # also where a == b or x == y
            continue
        present.remove(a * width + x)
        present.remove(b * width + y)
        present.add(first)
        present.add(second)
        receivers[i], receivers[j] = y, x
    return np.array(sorted(present))
