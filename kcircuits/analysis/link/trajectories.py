"""Both sides of each fact over the epochs of one training run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.overlap.all_pairs import epoch_halves, pair_overlaps
from kcircuits.analysis.overlap.corrected import Items, Level
from kcircuits.analysis.overlap.turnover import REPLICATED


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """Turnover and knowledge of the facts of one training run.

    A step leads from one epoch to the next, so there is one step fewer than epochs.

    Attributes:
        k_own: Corrected overlap of the halves of a fact's prompts within an epoch.
        k_st: Of one half with the other half at the next epoch.
        ceiling: c = sqrt(k_own k_own') of both ends of a step; k_st where the scores are equal.
        is_known: Whether the fact is known.
        margin: How safely it is known, by one or more measures; larger is safer.
        entities: The entity of each fact: what is exchanged, and the cluster of every interval.
        cells: Stratum and exposure of each fact: entities are exchanged within them only.
        relations: What tells the facts of an entity apart, and matches them to another entity's.
    """

    k_own: Float[np.ndarray, "fact epoch"]
    k_st: Float[np.ndarray, "fact step"]
    ceiling: Float[np.ndarray, "fact step"]
    is_known: Bool[np.ndarray, "fact epoch"]
    margin: Float[np.ndarray, "fact epoch measure"]
    entities: tuple[str, ...]
    cells: tuple[str, ...]
    relations: tuple[str, ...]

    @property
    def turnover(self) -> Float[np.ndarray, "fact step"]:
        """T = c - k_st of each fact and step, in units of k."""
        return self.ceiling - self.k_st

    @property
    def is_at_risk(self) -> Bool[np.ndarray, "fact outcome"]:
        """Known at both ends of a step that another step follows: it may be forgotten next."""
        known = self.is_known
        return known[:, :-2] & known[:, 1:-1]

    @property
    def is_forgotten(self) -> Bool[np.ndarray, "fact outcome"]:
        """At risk, and not known at the epoch after the step."""
        return self.is_at_risk & ~self.is_known[:, 2:]

    def only(self, chosen: Bool[np.ndarray, " fact"]) -> "Trajectories":
        """Those of a part of the facts."""
        arrays = ("k_own", "k_st", "ceiling", "is_known", "margin")
        names = ("entities", "cells", "relations")
        kept = np.flatnonzero(chosen)
        return replace(
            self,
            **{name: getattr(self, name)[kept] for name in arrays},
            **{name: tuple(getattr(self, name)[i] for i in kept) for name in names},
        )


@dataclass(frozen=True, kw_only=True)
class CircuitSeries:
    """The circuits of one fact over the epochs.

    Attributes:
        k_own: As in ``Trajectories``.
        k_st: Likewise.
        ceiling: Likewise.
        replicated: Edges and nodes that the circuits of both halves have at the epoch asked for,
            in at least half of the splits.
    """

    k_own: Float[np.ndarray, " epoch"]
    k_st: Float[np.ndarray, " step"]
    ceiling: Float[np.ndarray, " step"]
    replicated: Mapping[Level, Int[np.ndarray, " item"]]


def circuit_series(
    scores: Float[np.ndarray, "epoch prompt candidate"],
    n_edges: int,
    items: Mapping[Level, Items],
    *,
    at: int,
) -> CircuitSeries:
    """Follows the circuit of one fact, with the estimator of ``overlap.turnover``.

    Args:
        scores: Each discovery prompt's scores at each epoch, two prompts at least; 0 where an edge
            is no candidate.
        n_edges: The budget n.
        items: Edges and nodes of the candidates; overlaps count edges.
        at: The epoch whose replicated items are wanted.
    """
    halves = epoch_halves(scores, n_edges)
    k = pair_overlaps(halves, items["edge"])
    k_own, k_st = np.diag(k), np.diag(k, 1)
    positive = np.maximum(k_own, 0)
    is_identical = (scores[1:] == scores[:-1]).all((1, 2))
    masks = np.zeros((*halves.masks.shape[:2], scores.shape[2]), dtype=bool)
    masks[..., halves.kept] = halves.masks[:, :, at]
    replicated: dict[Level, np.ndarray] = {}
    for level, kind in items.items():
        first, second = (kind.of(side) for side in masks)
        replicated[level] = np.flatnonzero((first & second).mean(0) >= REPLICATED)
    return CircuitSeries(
        k_own=k_own,
        k_st=k_st,
        ceiling=np.where(is_identical, k_st, np.sqrt(positive[1:] * positive[:-1])),
        replicated=replicated,
    )
