"""What is kept of one fact's circuits over epochs: small, so that all facts of a run fit.

All prompts' scores at all epochs are megabytes a fact. From them this works out presence, structure
and overlap of neighbouring epochs, the same under swapped epoch labels, and keeps the scores of the
few edges that are ever in a circuit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.overlap.corrected import Items, Level, circuit_overlap
from kcircuits.analysis.overlap.half_circuits import top_mask
from kcircuits.analysis.survival import SpellCounts
from kcircuits.analysis.temporal.epoch_halves import (
    EpochHalves,
    epoch_halves,
    half_sizes,
    own_epochs,
    permuted_epochs,
    swapped_steps,
)
from kcircuits.analysis.temporal.lifespans import presence_spells
from kcircuits.analysis.temporal.presence import Presence, presence
from kcircuits.analysis.temporal.structure import Structure, circuit_hubs, circuit_structure
from kcircuits.core.topology import Topology

Matrix = Float[np.ndarray, "epoch epoch"]


@dataclass(frozen=True, kw_only=True)
class Swapped:
    """What swapped epoch labels give: the noise of the method, were there no change.

    Attributes:
        born: Items born in each step with its two labels swapped for some prompts.
        died: Items that died.
        hubs: Nodes that became or stopped being hubs, likewise.
        spells: Spells with the labels of all known epochs permuted, prompt by prompt.
        in_both: Presence so permuted, of the items that ever replicate.
    """

    born: Float[np.ndarray, " step"]
    died: Float[np.ndarray, " step"]
    hubs: Float[np.ndarray, " step"]
    spells: SpellCounts
    in_both: Bool[np.ndarray, "epoch item"]


@dataclass(frozen=True, kw_only=True)
class CircuitTrack:
    """One fact's circuits over epochs; nothing is there at epochs without a cell.

    Attributes:
        has_cell: Epochs at which the fact has a cell.
        is_known: Epochs at which it is known.
        is_identical: Steps whose two epochs have equal scores.
        candidates: Flat indices of the edges that are ever in a circuit, in the order of names.
        scores: Their mean scores over the prompts; 0 where not kept.
        edges: When these edges are there.
        nodes: When heads and MLPs (``Topology.nodes`` without input and logits) are there.
        hubs: When they are hubs.
        structure: Shape of the circuit of all prompts at each epoch; zeros without a cell.
        entropy_apart: |difference| of entropy between one half at one epoch and the other half at
            another, mean over the splits; the diagonal is noise alone.
        depth_apart: The same of depth.
        layers_apart: At each epoch, |difference| of edges by sender layer between the halves.
        overlap: Corrected overlap k of one half at one epoch with the other half at another, of
            edges or of nodes; on the diagonal k_ss. NaN without a cell.
        spells: Spells of edges or nodes.
        swapped: The same under swapped labels.
    """

    has_cell: Bool[np.ndarray, " epoch"]
    is_known: Bool[np.ndarray, " epoch"]
    is_identical: Bool[np.ndarray, " step"]
    candidates: Int[np.ndarray, " edge"]
    scores: Float[np.ndarray, "epoch edge"]
    edges: Presence
    nodes: Presence
    hubs: Presence
    structure: Structure
    entropy_apart: Matrix
    depth_apart: Matrix
    layers_apart: Float[np.ndarray, "epoch layer"]
    overlap: Matrix
    spells: SpellCounts
    swapped: Swapped

    def items(self, level: Level) -> Presence:
        """When edges or nodes are there."""
        return self.edges if level == "edge" else self.nodes

    @property
    def is_compared(self) -> Bool[np.ndarray, " step"]:
        """Steps that enter means: known at both epochs, or nothing changed at all."""
        return (self.is_known[1:] & self.is_known[:-1]) | self.is_identical

    @property
    def ceilings(self) -> Float[np.ndarray, " step"]:
        """Ceiling c of each step, as ``FactOverlap.ceiling``."""
        own = np.maximum(np.diag(self.overlap), 0)
        return np.where(self.is_identical, self.step_overlaps, np.sqrt(own[1:] * own[:-1]))

    @property
    def step_overlaps(self) -> Float[np.ndarray, " step"]:
        """k_st of each step between neighbouring epochs."""
        return np.diag(self.overlap, 1)


@dataclass(frozen=True, kw_only=True)
class FactScores:
    """One fact's scores over epochs.

    Attributes:
        values: Each discovery prompt's scores at the epochs that have a cell, on the union of
            their candidate edges in the order of edge names (0 where one is no candidate).
        candidates: Flat edge indices.
        items: Edges and nodes of these candidates.
        has_cell: Epochs that have a cell.
        is_known: Epochs at which the fact is known.
    """

    values: Float[np.ndarray, "present prompt candidate"]
    candidates: Int[np.ndarray, " candidate"]
    items: Mapping[Level, Items]
    has_cell: Bool[np.ndarray, " epoch"]
    is_known: Bool[np.ndarray, " epoch"]


def track_fact(
    fact: FactScores, topology: Topology, n_edges: int, level: Level, rng: np.random.Generator
) -> CircuitTrack:
    """Follows a fact's circuits over epochs.

    Args:
        fact: Its scores; at least two discovery prompts.
        topology: The graph.
        n_edges: The budget n.
        level: Whether overlap, spells and swapped labels count edges or nodes.
        rng: Of the swapped labels.
    """
    n_present, n_prompts, _ = fact.values.shape
    grid, mean = _Grid(has_cell=fact.has_cell), fact.values.mean(1)
    top = top_mask(np.abs(mean), n_edges)
    sources = [
        own_epochs(n_present, n_prompts),
        permuted_epochs(n_prompts, fact.is_known[fact.has_cell], rng),
        swapped_steps(n_present, n_prompts, rng).reshape(-1, n_prompts),
    ]
    halves = epoch_halves(fact.values, n_edges, np.concatenate(sources), np.flatnonzero(top.any(0)))
    kept, plain = halves.kept, top[:, halves.kept]
    items = {name: kind.keep(kept) for name, kind in fact.items.items()}
    a, b = (masks[:, :n_present] for masks in halves.masks)
    edges, nodes = (
        presence(kind.of(a), kind.of(b), kind.of(plain)) for kind in (items["edge"], items["node"])
    )
    now, chosen = items[level], grid.presence(edges if level == "edge" else nodes)
    overlap = circuit_overlap(now.of(a), now.of(b), now).corrected.mean(0)
    is_ever = edges.in_both.any(0) | plain.any(0)
    return CircuitTrack(
        has_cell=fact.has_cell,
        is_known=fact.is_known,
        is_identical=grid.steps((fact.values[1:] == fact.values[:-1]).all((1, 2))),
        candidates=fact.candidates[kept][is_ever],
        scores=grid.epochs(mean[:, kept][:, is_ever]),
        edges=grid.presence(edges.only(np.flatnonzero(is_ever))),
        nodes=grid.presence(nodes),
        **_shapes((a, b), plain, fact.values[:, :, kept], fact.candidates[kept], topology, grid),
        overlap=grid.matrix((overlap + overlap.T) / 2),
        spells=presence_spells(chosen.in_both, chosen.in_neither, fact.is_known),
        swapped=_swapped(halves, n_present, now, grid, fact, topology),
    )


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Puts what was worked out for the epochs with a cell on all epochs."""

    has_cell: Bool[np.ndarray, " epoch"]

    def epochs(self, values: np.ndarray) -> np.ndarray:
        spread = np.zeros((len(self.has_cell), *values.shape[1:]), dtype=values.dtype)
        spread[self.has_cell] = values
        return spread

    def steps(self, values: np.ndarray) -> np.ndarray:
        """Steps between epochs that are not neighbours are left out."""
        places = np.flatnonzero(self.has_cell)
        is_next = np.diff(places) == 1
        spread = np.zeros((len(self.has_cell) - 1, *values.shape[1:]), dtype=values.dtype)
        spread[places[:-1][is_next]] = values[is_next]
        return spread

    def matrix(self, values: Matrix) -> Matrix:
        spread = np.full((len(self.has_cell), len(self.has_cell)), np.nan)
        spread[np.ix_(self.has_cell, self.has_cell)] = values
        return spread

    def presence(self, items: Presence) -> Presence:
        place = {"born": self.steps, "died": self.steps, "kept": self.steps}
        return Presence(**{n: place.get(n, self.epochs)(part) for n, part in vars(items).items()})


def _shapes(
    sides: tuple[Bool[np.ndarray, "split epoch kept"], Bool[np.ndarray, "split epoch kept"]],
    plain: Bool[np.ndarray, "epoch kept"],
    values: Float[np.ndarray, "epoch prompt kept"],
    candidates: Int[np.ndarray, " kept"],
    topology: Topology,
    grid: _Grid,
) -> dict[str, Any]:
    """Shape of the circuits of all prompts, and how far those of the halves are apart."""
    n_present, n_kept = plain.shape
    whole = circuit_structure(plain, np.abs(values.mean(1)), candidates, topology)
    split = [
        circuit_structure(
            masks.reshape(-1, n_kept), sizes.reshape(-1, n_kept), candidates, topology
        )
        for masks, sizes in zip(sides, half_sizes(values), strict=True)
    ]
    a, b = (side.is_hub.reshape(-1, n_present, topology.n_forward - 1) for side in split)
    return {
        "hubs": grid.presence(presence(a, b, whole.is_hub)),
        "structure": Structure(**{name: grid.epochs(part) for name, part in vars(whole).items()}),
        "entropy_apart": grid.matrix(_apart([side.entropy for side in split], n_present)),
        "depth_apart": grid.matrix(_apart([side.depth for side in split], n_present)),
        "layers_apart": grid.epochs(_layers_apart(split, n_present)),
    }


def _apart(sides: list[Float[np.ndarray, " circuit"]], n_present: int) -> Matrix:
    first, second = (side.reshape(-1, n_present) for side in sides)
    table = np.abs(first[:, :, None] - second[:, None, :]).mean(0)
    return (table + table.T) / 2


def _layers_apart(split: list[Structure], n_present: int) -> Float[np.ndarray, "epoch layer"]:
    apart = np.abs(split[0].layer_edges - split[1].layer_edges)
    return apart.reshape(-1, n_present, apart.shape[1]).mean(0)


def _swapped(
    halves: EpochHalves,
    n_present: int,
    items: Items,
    grid: _Grid,
    fact: FactScores,
    topology: Topology,
) -> Swapped:
    """Reads the circuits after the observed ones: permuted epochs, then the ends of each step."""
    a, b = (items.of(masks[:, n_present:]) for masks in halves.masks)
    permuted = grid.presence(presence(a[:, :n_present], b[:, :n_present], a[0, :n_present]))
    steps = _changes(a[:, n_present:], b[:, n_present:])
    ends = [masks[:, 2 * n_present :] for masks in halves.masks]
    shape = (*ends[0].shape[:2], topology.n_forward - 1)
    hubs = [
        circuit_hubs(
            masks.reshape(-1, len(halves.kept)), fact.candidates[halves.kept], topology
        ).reshape(shape)
        for masks in ends
    ]
    return Swapped(
        born=grid.steps(steps[0]),
        died=grid.steps(steps[1]),
        hubs=grid.steps(_changes(hubs[0], hubs[1]).sum(0)),
        spells=presence_spells(permuted.in_both, permuted.in_neither, fact.is_known),
        in_both=permuted.in_both[:, permuted.in_both.any(0)],
    )


def _changes(
    a: Bool[np.ndarray, "split end item"], b: Bool[np.ndarray, "split end item"]
) -> Float[np.ndarray, "2 step"]:
    """Items born and died from the first end of each step to its second."""
    found = presence(a, b, a[0])
    pairs = slice(None, None, 2)  # the end of a step and the first end of the next are no pair
    return np.stack([found.born[pairs].sum(1), found.died[pairs].sum(1)]).astype(float)
