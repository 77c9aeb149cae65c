"""How alike the circuits of different facts are at one epoch.

``BetweenFacts.read`` streams the cells of an epoch, keeps the half circuits of the facts that are
known there, and compares every fact with every other: by stratum, and as groups that the circuits
make by themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from kcircuits.analysis.overlap.between_facts import FactPairs, ceilings
from kcircuits.analysis.overlap.clusters import Clusters, find_clusters
from kcircuits.analysis.overlap.contrast import Contrast, contrast
from kcircuits.analysis.overlap.corrected import Level
from kcircuits.analysis.overlap.turnover import MIN_CEILING
from kcircuits.core.cell import Cell
from kcircuits.core.facts import Fact
from kcircuits.core.provenance import Provenance
from kcircuits.core.topology import Topology
from kcircuits.errors import IncomparableError
from kcircuits.io.run_record import CheckpointRecord
from kcircuits.study.alignment import check_comparable
from kcircuits.study.between.facts_tables import (
    RELATION,
    Row,
    agreement_rows,
    contrast_row,
    fact_rows,
    group_rows,
    strata_rows,
)
from kcircuits.study.between.halved_facts import (
    HalvedFact,
    all_items,
    fact_pairs,
    halve,
    obstacle,
)
from kcircuits.study.diff.tables import number
from kcircuits.study.fact_cells import resolve_epochs, stream_facts
from kcircuits.study.meaning import rows_are
from kcircuits.study.run import Run
from kcircuits.study.strata import require_stratum, stratum_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

NO_CELL = "no cell"


@dataclass(frozen=True, kw_only=True)
class BetweenFacts:
    """Overlap between the circuits of different facts at one epoch; see ``read``.

    Attributes:
        run: Name of the run.
        checkpoint: The epoch's checkpoint.
        level: Whether overlaps count edges or nodes.
        by: Stratum key, or ``relation``.
        provenance: Method and parameters of the scores.
        topology: The graph.
        n_edges: The budget.
        halved: The facts compared, in the order of the facts file.
        left_out: Facts that are not compared, by the reason.
        pairs: Overlaps of all pairs of ``halved``.
    """

    run: str
    checkpoint: CheckpointRecord
    level: Level
    by: str
    provenance: Provenance
    topology: Topology
    n_edges: int
    halved: tuple[HalvedFact, ...]
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pairs: FactPairs

    @classmethod
    def read(
        cls, run: Run, epoch: str, *, by: str = RELATION, level: Level = "edge"
    ) -> "BetweenFacts":
        """Compares the facts of an epoch.

        Args:
            run: The run.
            epoch: A reference to the epoch.
            by: Stratum key, or ``relation``, that pairs are told apart by.
            level: Compare edges or nodes; nodes leave out input and logits and merge q, k, v.

        Raises:
            UsageError: There is no such epoch or stratum.
            IncomparableError: The epoch has no cell, cells that do not compare, or fewer than two
                facts that can be compared.
            StoreCorruptError: What was read is not what was committed.
        """
        (name,) = resolve_epochs(run, [epoch])
        require_stratum(by, run.facts)
        first: Cell | None = None
        halved: list[HalvedFact] = []
        left_out: dict[str, list[str]] = {}
        seen: set[str] = set()
        for one in stream_facts(run, [name]):
            cell = one.cells[0]
            assert cell is not None  # facts without a cell are not streamed
            seen.add(one.fact.id)
            first = first or cell
            check_comparable([first, cell])
            if reason := obstacle(cell):
                left_out.setdefault(reason, []).append(one.fact.id)
            else:
                halved.append(halve(one.fact, cell, level, with_quarters=True))
        assert first is not None  # else there would be no such epoch
        if missing := [fact_id for fact_id in run.fact_ids if fact_id not in seen]:
            left_out[NO_CELL] = missing
        if len(halved) < 2:
            raise _too_few(name, len(halved), left_out)
        return cls(
            run=run.name,
            checkpoint=run.checkpoint(name),
            level=level,
            by=by,
            provenance=first.provenance,
            topology=first.topology,
            n_edges=first.n_edges,
            halved=tuple(halved),
            left_out={reason: tuple(ids) for reason, ids in left_out.items()},
            pairs=fact_pairs(halved, first.topology, level),
        )

    @property
    def epoch(self) -> str:
        """Id of the checkpoint."""
        return self.checkpoint.id

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The facts compared."""
        return tuple(one.fact for one in self.halved)

    @property
    def n_prompts(self) -> int:
        """Discovery prompts (or folds) per fact, P; the smallest number if facts differ."""
        return min(one.n_prompts for one in self.halved)

    @property
    def n_meeting(self) -> int:
        """Pairs left out because halves of the two facts would meet their own templates."""
        n_facts = len(self.halved)
        return (n_facts * (n_facts - 1) - int(self.pairs.is_pair.sum())) // 2

    @property
    def shared(self) -> Float[np.ndarray, "fact fact"]:
        """k_ij / c_ij of every pair, 1 for a fact with itself; NaN where there is no number."""
        ceiling = ceilings(self.pairs.overlaps.own)
        with np.errstate(divide="ignore", invalid="ignore"):
            shared = self.pairs.overlaps.corrected / ceiling
        has_ceiling = self.pairs.overlaps.own >= MIN_CEILING
        shared[~(self.pairs.is_pair & has_ceiling & has_ceiling[:, None])] = np.nan
        np.fill_diagonal(shared, np.where(has_ceiling, 1.0, np.nan))
        return shared

    @cached_property
    def rows(self) -> list[Row]:
        """What groups of pairs share.

        Pairs within each stratum, within all, between strata, and apart from these: pairs of one
        entity and, where ``by`` is not the relation, pairs of two relations and pairs in
        relations all of whose facts have one stratum.

        Fields: ``group``, ``stratum`` (None for all), ``pairs``, ``facts``, ``entities``,
        ``jaccard``, ``ceiling``, ``chance``, ``chance_matched``, ``shared`` with ``shared_low`` and
        ``shared_high``, ``shared_matched``, ``reason`` (why there is no number). None where there
        is no number.
        """
        return group_rows(self.pairs, self._compared, self._labels, self._relations, self.by)

    @cached_property
    def contrast(self) -> Contrast:
        """Shared within strata minus shared between them, with its verdict."""
        makeup = None if self.by == RELATION else self._relations.tolist()
        return contrast(self.pairs, self._compared, self._labels, makeup, n_prompts=self.n_prompts)

    @cached_property
    def strata_rows(self) -> list[Row]:
        """What every two strata share: rows ``first, second, pairs, shared``.

        Pairs of one entity are left out; pairs of two relations are not.
        """
        return strata_rows(self.pairs, self._labels)

    @cached_property
    def clusters(self) -> Clusters:
        """Facts grouped by their circuits."""
        kinds = all_items(self.topology, self.level)
        return find_clusters(self.pairs, [one.quarters for one in self.halved], kinds[0])

    @cached_property
    def agreements(self) -> list[Row]:
        """How far clusters are relations, strata and entities.

        Rows ``label``, ``groups`` (of that label), ``rand`` (adjusted Rand index: 1 the same
        groups, 0 as by chance) and ``p``, by labels exchanged as in ``contrast``; entities
        exchange places within their relation. None without clusters, and where all facts have one
        label or each its own.
        """
        return agreement_rows(self.clusters, self.facts, self.by)

    @cached_property
    def fact_rows(self) -> list[Row]:
        """One row per fact compared.

        Fields: ``fact``, ``entity``, ``relation``, ``stratum``, ``prompts``, ``own`` (k_ii: what
        its halves share beyond chance), ``cluster`` (1 the largest; None where there are none),
        ``nearest`` (the fact that it shares most with) and ``nearest_shared``.
        """
        return fact_rows(self.pairs, self.shared, self.clusters, self.halved, self._labels)

    def plot(self) -> "go.Figure":
        """Fact x fact heat map in the order of the tree, strata beside it."""
        from kcircuits.plots.between import facts_figure, facts_table  # plotly is slow to import

        return facts_figure(facts_table(self.to_json()), by=self.by)

    def to_json(self) -> dict[str, Any]:
        """As ``kcircuits overlap --facts-at EPOCH --json`` prints it."""
        found = self.clusters
        return {
            "schema": "kcircuits.overlap-facts/1",
            "run": self.run,
            "epoch": self.epoch,
            "hash": self.checkpoint.content_hash,
            "unverified": not self.checkpoint.is_verified,
            "level": self.level,
            "by": self.by,
            "method": self.provenance.method,
            "params": dict(self.provenance.params),
            "n_edges": self.n_edges,
            "edges": self.topology.n_edges,
            "prompts": self.n_prompts,
            "prompts_are": rows_are(self.provenance),
            "left_out": {reason: list(ids) for reason, ids in self.left_out.items()},
            "pairs_left_out": self.n_meeting,
            "rows": self.rows,
            "contrast": contrast_row(self.contrast),
            "strata": self.strata_rows,
            "clusters": {
                "verdict": found.word,
                "reason": found.reason,
                "number": found.n_clusters if found.word == "clusters" else None,
                "facts": len(found.facts),
                "stability": [
                    {"clusters": n, "rand": number(value)}
                    for n, value in enumerate(found.stability.tolist(), start=2)
                ],
                "p": number(found.p),
                "separation": number(found.separation),
                "agreement": self.agreements,
            },
            "facts": self.fact_rows,
            "order": [self.facts[i].id for i in self._order],
            "shared": [[number(value) for value in line] for line in self.shared.tolist()],
        }

    @cached_property
    def _order(self) -> list[int]:
        """Facts along the tree, then those that it leaves out."""
        inside = self.clusters.facts[self.clusters.order].tolist()
        return [*inside, *sorted(set(range(len(self.halved))) - set(inside))]

    @cached_property
    def _labels(self) -> Shaped[np.ndarray, " fact"]:
        return np.array([stratum_of(fact, self.by) for fact in self.facts])

    @cached_property
    def _relations(self) -> Shaped[np.ndarray, " fact"]:
        return np.array([fact.relation for fact in self.facts])

    @cached_property
    def _compared(self) -> Bool[np.ndarray, "fact fact"]:
        """Pairs of two entities; where ``by`` is no relation, in relations that have two strata."""
        apart = ~self.pairs.is_one_entity
        if self.by == RELATION:
            return apart
        relations = self._relations
        mixed = [name for name in set(relations) if len(set(self._labels[relations == name])) > 1]
        return apart & (relations[:, None] == relations) & np.isin(relations, mixed)


def _too_few(epoch: str, n_facts: int, left_out: Mapping[str, Sequence[str]]) -> IncomparableError:
    counts = ", ".join(f"{len(ids)} {reason}" for reason, ids in left_out.items())
    return IncomparableError(
        f"epoch {epoch} has {n_facts} facts to compare, 2 are needed (left out: {counts})",
        field="epoch",
        hint="choose an epoch at which more facts are known",
    )
