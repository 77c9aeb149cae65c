"""What changed in the circuits of a run's facts between two epochs.

``Diff.from_cells`` aligns the cells of each fact, compares its circuits across halves of its
prompts, judges facts and strata, and keeps the tables that notebook, command line and page show.
Facts that are not known at both epochs stay out of means and tests and are counted: the circuit of
a fact that the model does not know is not the circuit of that fact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kcircuits.analysis.dynamics import KnowledgeStep, knowledge_step
from kcircuits.analysis.overlap.corrected import Level
from kcircuits.analysis.overlap.turnover import summarise
from kcircuits.core.cell import Cell
from kcircuits.core.facts import Fact
from kcircuits.core.score_meaning import ScoreMeaning
from kcircuits.core.topology import Topology
from kcircuits.errors import UsageError
from kcircuits.study.alignment import check_comparable, check_one_checkpoint
from kcircuits.study.diff.fact_diff import FactDiff, compare_facts, group_by_stratum, pair_cells
from kcircuits.study.diff.tables import (
    Row,
    diff_graph,
    edge_rows,
    edge_totals,
    node_rows,
    number,
    pruned_jaccard,
    stratum_row,
)
from kcircuits.study.meaning import meaning_of, rows_are
from kcircuits.study.strata import ALL, require_stratum

if TYPE_CHECKING:
    import networkx as nx
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True)
class Diff:
    """What changed between two epochs; see ``from_cells``.

    Attributes:
        epochs: Names of the two epochs.
        hashes: Content hashes of their checkpoints.
        unverified: Those of the two whose checkpoint declares no hash.
        level: Whether overlaps count edges or nodes.
        method: Attribution method.
        params: Its parameters.
        meaning: What its scores say.
        rows_are: What it scores apart: discovery prompts, or folds of them.
        fraction: Budget as a share of all edges.
        n_edges: Budget as a count.
        topology: The graph.
        fact_diffs: All facts with a cell at both epochs, in the order given.
        missing: Facts that lack a cell at one of them.
        by: Stratum key of the rows; None for one row.
    """

    epochs: tuple[str, str]
    hashes: tuple[str, str]
    unverified: tuple[str, ...] = ()
    level: Level = "edge"
    method: str
    params: Mapping[str, Any] = field(default_factory=dict)
    meaning: ScoreMeaning
    rows_are: str
    fraction: float
    n_edges: int
    topology: Topology
    fact_diffs: tuple[FactDiff, ...]
    missing: tuple[str, ...] = ()
    by: str | None = None

    @classmethod
    def from_cells(
        cls,
        cells_from: Sequence[Cell],
        cells_to: Sequence[Cell],
        *,
        epochs: tuple[str, str],
        facts: Sequence[Fact],
        by: str | None = None,
        level: Level = "edge",
        fraction: float | None = None,
        unverified: Sequence[str] = (),
    ) -> "Diff":
        """Compares two epochs.

        Args:
            cells_from: Cells of the first epoch.
            cells_to: Cells of the second epoch.
            epochs: Names of the two.
            facts: The facts of the cells, for their entities, strata and templates.
            by: Stratum key (or ``relation``) to group facts by; None for one row ``all``.
            level: Compare edges or nodes; nodes leave out input and logits and merge q, k, v.
            fraction: The budget as it was asked for; None works it out from the count.
            unverified: Epochs whose checkpoint declares no hash.

        Raises:
            IncomparableError: Other graph, method, parameters, budget or prompts; no common fact.
            UsageError: No fact has the stratum ``by``.
        """
        pairs = pair_cells(cells_from, cells_to, epochs)
        hash_from = check_one_checkpoint(cells_from, epochs[0])
        hash_to = check_one_checkpoint(cells_to, epochs[1])
        check_comparable([cell for pair in pairs.values() for cell in pair])
        by_id = {fact.id: fact for fact in facts}
        require_stratum(by, [by_id[fact_id] for fact_id in pairs])
        first = next(iter(pairs.values()))[0]
        every = {cell.fact_id: None for cell in (*cells_from, *cells_to)}
        return cls(
            epochs=epochs,
            hashes=(hash_from, hash_to),
            unverified=tuple(name for name in dict.fromkeys(epochs) if name in unverified),
            level=level,
            method=first.provenance.method,
            params=first.provenance.params,
            meaning=meaning_of(first.provenance),
            rows_are=rows_are(first.provenance),
            fraction=first.n_edges / first.topology.n_edges if fraction is None else fraction,
            n_edges=first.n_edges,
            topology=first.topology,
            fact_diffs=compare_facts(pairs, by_id, epochs, level),
            missing=tuple(fact_id for fact_id in every if fact_id not in pairs),
            by=by,
        )

    def only(self, fact_id: str) -> "Diff":
        """The same diff for one fact, with the verdict that it has among the facts of the step.

        Raises:
            UsageError: The fact is not in it.
        """
        return replace(self, fact_diffs=(self[fact_id],), by=None)

    def __getitem__(self, fact_id: str) -> FactDiff:
        for compared in self.fact_diffs:
            if compared.fact.id == fact_id:
                return compared
        ids = [compared.fact.id for compared in self.fact_diffs]
        why = "has no cell at both epochs" if fact_id in self.missing else "is not in this run"
        raise UsageError(
            f"fact {fact_id!r} {why}",
            field="fact",
            hint=f"choose one of {', '.join(ids[:8])}{', ...' * (len(ids) > 8)}",
        )

    @property
    def n_prompts(self) -> int:
        """Discovery prompts (or folds) per fact, P; the smallest number if facts differ."""
        return min(compared.overlap.n_prompts for compared in self.fact_diffs)

    @cached_property
    def facts(self) -> KnowledgeStep:
        """Facts acquired, retained and forgotten between the two epochs."""
        known = {compared.fact.id: compared.known for compared in self.fact_diffs}
        return knowledge_step(
            list(known),
            {name: both[0] for name, both in known.items()},
            {name: both[1] for name, both in known.items()},
        )

    @cached_property
    def rows(self) -> list[Row]:
        """One row per stratum: overlap between chance and ceiling, turnover, verdict.

        Fields: ``stratum``, ``facts`` (that enter), ``unknown`` (left out), ``gained``, ``lost``
        and ``kept`` items per fact, ``jaccard``, ``ceiling`` and ``chance``, ``turnover`` with
        ``turnover_low`` and ``turnover_high``, ``turnover_detectable`` (the smallest that would
        have been called changed), ``verdict`` and ``reason``. None where there is no number.
        """
        if len(self.fact_diffs) == 1:
            return [stratum_row(ALL, self.fact_diffs, self.fact_diffs[0].verdict)]
        groups = group_by_stratum(self.fact_diffs, self.by)
        return [stratum_row(name, members) for name, members in groups.items()]

    @cached_property
    def fact_rows(self) -> list[Row]:
        """``rows`` of each fact by itself, with ``fact`` and ``known`` at either epoch."""
        return [
            {
                "fact": one.fact.id,
                "known": list(one.known),
                **stratum_row(one.stratum(self.by), [one], one.verdict),
            }
            for one in self.fact_diffs
        ]

    @cached_property
    def edges(self) -> list[Row]:
        """Edges that changed and replicate, of the facts compared, largest |to - from| first.

        Rows ``fact, edge, from, to, status, is_kept``: mean scores over the fact's discovery
        prompts; ``meaning`` says what they are. ``is_kept`` says for either epoch whether the edge
        was large enough there to be kept; else its score is given as 0.
        """
        return edge_rows(self._compared, self.topology)

    def edge_totals(self, stratum: str | None = None, n_edges: int | None = None) -> list[Row]:
        """Edges summed over the facts compared, of one stratum or of all.

        Rows ``edge, from, to`` (mean score over the facts, 0 where too small to be kept)
        and ``gained, lost, kept`` (in how many facts it replicates as such), largest |to - from|
        first.
        """
        members = self._compared
        if stratum is not None:
            members = [one for one in members if one.stratum(self.by) == stratum]
        return edge_totals(members, self.topology, n_edges)

    @cached_property
    def nodes(self) -> list[Row]:
        """Heads and MLPs gained or lost in some fact compared, those in most facts first.

        Rows ``node, layer, kind, gained, lost, kept``: in how many facts it replicates as such.
        """
        return node_rows(self._compared, self.topology)

    def graph(self, fact_id: str) -> "nx.MultiDiGraph":
        """A fact's circuits at both epochs as one graph.

        The edges are those that replicate: ``status`` is ``gained``, ``lost`` or ``kept``,
        ``from`` and ``to`` are the scores; the rest as in ``Circuits.graph``.

        Raises:
            UsageError: The fact is not in the diff.
        """
        return diff_graph(self[fact_id], self.topology)

    def plot(self) -> "go.Figure":
        """Jaccard between chance and ceiling, and turnover, of each stratum."""
        from kcircuits.plots.diff import diff_figure, diff_table  # plotly costs what a diff may

        return diff_figure(diff_table(self.to_json()))

    def to_json(self, *, n_edges: int | None = None) -> dict[str, Any]:
        """The diff as ``kcircuits diff --json`` prints it.

        Args:
            n_edges: At most that many rows of ``edges`` and of ``nodes``.
        """
        return {
            "schema": "kcircuits.diff/1",
            "from": self.epochs[0],
            "to": self.epochs[1],
            "from_hash": self.hashes[0],
            "to_hash": self.hashes[1],
            "unverified": list(self.unverified),
            "level": self.level,
            "method": self.method,
            "params": dict(self.params),
            "score": {"unit": self.meaning.unit, "helps": self.meaning.helps},
            "fraction": self.fraction,
            "n_edges": self.n_edges,
            "prompts": self.n_prompts,
            "prompts_are": self.rows_are,
            "jaccard_same_prompts": self.jaccard_same_prompts,
            "rows": self.rows,
            "edges": edge_rows(self._compared, self.topology, n_edges),
            "nodes": self.nodes[:n_edges],
            "facts": {
                word: list(getattr(self.facts, word))
                for word in ("acquired", "retained", "forgotten")
            },
            "missing": list(self.missing),
        }

    @property
    def jaccard_same_prompts(self) -> float | None:
        """Jaccard of the circuits of all prompts, mean over the facts compared.

        Descriptive: it has no ceiling, and is not to be compared with the one in ``rows``.
        """
        return number(summarise([one.overlap for one in self._compared]).same_prompts)

    def jaccard_pruned(self) -> float | None:
        """The same after dangling nodes are removed; edges, whatever the level. 10 ms a fact."""
        return number(pruned_jaccard(self._compared, self.topology, self.n_edges))

    @property
    def is_different(self) -> bool:
        """Some stratum or fact is judged ``changed``, or a fact was acquired or forgotten."""
        verdicts = [row["verdict"] for row in (*self.rows, *self.fact_rows)]
        return "changed" in verdicts or bool(self.facts.acquired or self.facts.forgotten)

    @property
    def _compared(self) -> list[FactDiff]:
        if len(self.fact_diffs) == 1:  # asked for by name: shown even if not known
            return list(self.fact_diffs)
        return [one for one in self.fact_diffs if one.is_compared]
