"""Were the heads of a layer renumbered between two epochs?

A permutation of heads (with their keys, values and outputs) leaves the model as it is and every
circuit with other names. It happens by mistake: a conversion of weights, a loader that groups heads
otherwise. Turnover then is large and says nothing about training.

A head is described by its *profile*: what its edges add up to by the kind of node at their other
end (5 sums as sender, 9 as receiver), prompt by prompt. These sums do not see how other heads are
numbered, so each layer is matched by itself: the assignment of heads at t to heads at s that
maximises the inner product of profiles, summed over facts (the least-squares match).

The best assignment never agrees less than the names do on the prompts that it was found on. So it
is found on one half of the prompts and judged on the other, averaged over the splits. Both epochs
are read on the same prompts: unlike turnover, this asks who is who, and noise that a head shows at
both epochs helps to know it again. A layer is called permuted if in the other half its matches
agree (cosine of profiles) better than the names, beyond what varies between entities, and gain at
least half of what the names lack to 1. In trained epochs, where heads do change, names are best.

Source: our own; the assignment by scipy's solver (Crouse 2016).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.overlap.halves import half_members, split_halves
from kcircuits.analysis.overlap.jackknife import student_quantile
from kcircuits.core.topology import Topology

ALPHA = 0.05  # over all layers together
MIN_ENTITIES = 4  # a mean and its spread; a permutation is no subtle effect
MIN_GAINED = 0.5
_SENDER_KINDS = ("input", "head", "mlp")
_RECEIVER_KINDS = ("q", "k", "v", "mlp", "logits")
_N_FEATURES = len(_RECEIVER_KINDS) + 3 * len(_SENDER_KINDS)

Profiles = Float[np.ndarray, "2 prompt layer head feature"]


@dataclass(frozen=True, kw_only=True)
class HeadMatch:
    """Which head at t does what each head did at s, layer by layer.

    Agreements are cosines on prompts that the matches were not made from, means over facts; 0 in a
    layer whose heads have no score, NaN where no fact has two prompts.

    Attributes:
        heads: The head at t that matches each head at s best.
        as_named: Agreement of heads with those of the same number.
        matched: Agreement of heads with their matches.
        low: Lower bound of ``matched - as_named`` (one-sided, 5% over all layers together); NaN
            with fewer than 4 entities.
        n_entities: How many the bound rests on.
    """

    heads: Int[np.ndarray, "layer head"]
    as_named: Float[np.ndarray, " layer"]
    matched: Float[np.ndarray, " layer"]
    low: Float[np.ndarray, " layer"]
    n_entities: int

    @property
    def is_permuted(self) -> Bool[np.ndarray, " layer"]:
        """Whether each layer's heads appear to be permuted."""
        gained = self.matched - self.as_named
        return (self.low > 0) & (gained >= MIN_GAINED * (1 - self.as_named))

    @property
    def layers(self) -> list[int]:
        """The layers whose heads appear to be permuted."""
        return np.flatnonzero(self.is_permuted).tolist()

    @property
    def undoing(self) -> Int[np.ndarray, "layer head"]:
        """``heads`` in the layers that appear permuted, every head itself in the others."""
        own = np.broadcast_to(np.arange(self.heads.shape[1]), self.heads.shape)
        return np.where(self.is_permuted[:, None], self.heads, own)


def head_profiles(
    scores: Float[np.ndarray, "2 prompt candidate"],
    candidates: Int[np.ndarray, " candidate"],
    topology: Topology,
) -> Profiles:
    """The profiles of all heads for one fact.

    Args:
        scores: Each prompt's scores at both epochs; 0 where an edge is no candidate.
        candidates: Flat edge indices.
        topology: The graph.
    """
    edge, cell = _contributions(topology, candidates)
    order = np.argsort(cell, kind="stable")
    cells, starts = np.unique(cell[order], return_index=True)
    size = topology.n_layers * topology.n_heads * _N_FEATURES
    profiles = np.zeros((*scores.shape[:2], size))
    if len(cells):
        profiles[..., cells] = np.add.reduceat(
            scores[..., edge[order]].astype(np.float64), starts, axis=-1
        )
    return profiles.reshape(*scores.shape[:2], topology.n_layers, topology.n_heads, _N_FEATURES)


def match_heads(profiles: Sequence[Profiles], entities: Sequence[str]) -> HeadMatch:
    """Matches the heads of each layer between two epochs.

    Args:
        profiles: Of each fact, see ``head_profiles``; facts with a single prompt have no halves
            and are left out.
        entities: The entity of each fact.
    """
    kept = [i for i, values in enumerate(profiles) if values.shape[1] >= 2]
    n_layers, n_heads = profiles[0].shape[2:4]
    if not kept:
        own, nothing = np.tile(np.arange(n_heads), (n_layers, 1)), np.full(n_layers, np.nan)
        return HeadMatch(heads=own, as_named=nothing, matched=nothing, low=nothing, n_entities=0)
    n_splits = min(len(split_halves(profiles[i].shape[1])) for i in kept)
    halves = np.stack([_halves(profiles[i], n_splits) for i in kept])
    sides = [(halves[:, :, half, 0], halves[:, :, half, 1]) for half in range(2)]
    similarity = [_similarity(at_s, at_t) for at_s, at_t in sides]
    matches = [np.stack([_assign(split) for split in tables]) for tables in similarity]
    as_named = np.mean([_agreement(at_s, at_t) for at_s, at_t in sides], axis=0)
    matched = np.mean(
        [
            _agreement(at_s, _taken(at_t, match))
            for (at_s, at_t), match in zip(sides, reversed(matches), strict=True)
        ],
        axis=0,
    )
    low, n_entities = _lower_bound((matched - as_named).mean(1), [entities[i] for i in kept])
    return HeadMatch(
        heads=_assign((similarity[0] + similarity[1]).sum(0)),
        as_named=as_named.mean((0, 1)),
        matched=matched.mean((0, 1)),
        low=low,
        n_entities=n_entities,
    )


def renumber_heads(
    edges: Int[np.ndarray, " edge"], heads: Int[np.ndarray, "layer head"], topology: Topology
) -> Int[np.ndarray, " edge"]:
    """Edges at t under the names that their heads have at s.

    Args:
        edges: Flat indices.
        heads: The head at t that is each head at s, as ``HeadMatch.heads``.
        topology: The graph.
    """
    sender_slots, _, receiver_slots, _ = _ends(topology)
    n_heads = topology.n_heads
    own_slots = np.argsort(heads, axis=1) + np.arange(topology.n_layers)[:, None] * n_heads
    sender, receiver = np.divmod(edges, topology.n_backward)
    of_sender, of_receiver = sender_slots[sender], receiver_slots[receiver]
    moved = (own_slots.ravel() - np.arange(own_slots.size)).astype(edges.dtype)
    sender = sender + np.where(of_sender >= 0, moved[of_sender], 0)
    # a layer's receivers are all its heads' q, then all k, then all v: the same step in each
    receiver = receiver + np.where(of_receiver >= 0, moved[of_receiver], 0)
    return sender * topology.n_backward + receiver


def _contributions(
    topology: Topology, candidates: Int[np.ndarray, " candidate"]
) -> tuple[Int[np.ndarray, " part"], Int[np.ndarray, " part"]]:
    """Candidates (by place) and the cells of the flat profile that they add to."""
    sender_slots, sender_kinds, receiver_slots, receiver_kinds = _ends(topology)
    sender, receiver = np.divmod(candidates, topology.n_backward)
    sends = np.flatnonzero(sender_slots[sender] >= 0)
    gets = np.flatnonzero(receiver_slots[receiver] >= 0)
    as_sender = receiver_kinds[receiver[sends]]
    as_receiver = (
        len(_RECEIVER_KINDS)
        + len(_SENDER_KINDS) * receiver_kinds[receiver[gets]]
        + sender_kinds[sender[gets]]
    )
    cells = [
        sender_slots[sender[sends]] * _N_FEATURES + as_sender,
        receiver_slots[receiver[gets]] * _N_FEATURES + as_receiver,
    ]
    return np.concatenate([sends, gets]), np.concatenate(cells)


@lru_cache(maxsize=4)
def _ends(topology: Topology) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of senders, then of receivers: the head's number in the model (-1: no head), and the kind."""
    nodes = [topology.node_kind(name) for name in topology.forward_names]
    is_head = np.array([kind == "head" for kind in nodes])
    sender_slots = np.where(is_head, np.cumsum(is_head) - 1, -1)
    slot_of = dict(zip(topology.forward_names, sender_slots.tolist(), strict=True))
    return (
        sender_slots,
        np.array([_SENDER_KINDS.index(kind) for kind in nodes]),
        np.array([slot_of.get(name, -1) for name in topology.backward_nodes]),
        np.array([_RECEIVER_KINDS.index(kind) for kind in topology.backward_kinds]),
    )


def _halves(profiles: Profiles, n_splits: int) -> Float[np.ndarray, "split 2 2 layer head feature"]:
    """[split, half, epoch, ...], of unit length in each layer; 0 where a layer has no score."""
    members = half_members(split_halves(profiles.shape[1])[:n_splits])
    sums = np.stack([profiles[:, half].sum(2).swapaxes(0, 1) for half in members], axis=1)
    length = np.linalg.norm(sums, axis=(-1, -2), keepdims=True)
    return sums / np.where(length > 0, length, 1)


def _agreement(x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "fact split layer"]:
    return np.einsum("fslhk,fslhk->fsl", x, y)


def _similarity(x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "split layer head head"]:
    return np.einsum("fslhk,fslgk->slhg", x, y, optimize=True)


def _assign(similarity: Float[np.ndarray, "layer head head"]) -> Int[np.ndarray, "layer head"]:
    """The best match of each head; heads that nothing tells apart keep their names."""
    from scipy.optimize import linear_sum_assignment  # a diff need not wait for it

    tie = 1e-9 * np.eye(similarity.shape[1])
    return np.stack([linear_sum_assignment(table + tie, maximize=True)[1] for table in similarity])


def _taken(x: np.ndarray, heads: Int[np.ndarray, "split layer head"]) -> np.ndarray:
    """The profiles of the heads that are matched, in the place of those that they match."""
    return np.take_along_axis(x, heads[None, ..., None], axis=3)


def _lower_bound(
    gains: Float[np.ndarray, "fact layer"], entities: Sequence[str]
) -> tuple[Float[np.ndarray, " layer"], int]:
    """One-sided bound of the mean over entities, Student's t, Bonferroni over layers."""
    names, group = np.unique(np.array(entities), return_inverse=True)
    n, n_layers = len(names), gains.shape[1]
    if n < MIN_ENTITIES:
        return np.full(n_layers, np.nan), n
    means = np.stack([gains[group == i].mean(0) for i in range(n)])
    error = means.std(0, ddof=1) / np.sqrt(n)
    return means.mean(0) - student_quantile(1 - ALPHA / n_layers, n - 1) * error, n
