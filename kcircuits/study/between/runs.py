"""How alike the circuits of the same facts are in two runs, or by two methods.

Two *runs* differ in their training (its seed, its strategy) and in nothing else: prompts can
change their runs, so facts and strata are judged as between two epochs. Two *methods* have scored
the same checkpoints: their scores have other units and cannot change places, so overlap, ceiling,
turnover and interval stand without a test. Either way halves of prompts only meet halves of other
prompts, and beside the overlap of a fact with itself stands that with other facts of its relation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kcircuits.analysis.overlap.corrected import Level
from kcircuits.analysis.overlap.fact_halves import meet_own_templates
from kcircuits.analysis.overlap.own_facts import OwnFacts, own_facts
from kcircuits.analysis.overlap.turnover import compare_fact
from kcircuits.analysis.overlap.verdict import Verdict, judge_methods
from kcircuits.core.cell import Cell
from kcircuits.core.facts import Fact
from kcircuits.core.topology import Topology
from kcircuits.study.alignment import align_cells, check_comparable
from kcircuits.study.between.common_rows import common_rows
from kcircuits.study.between.halved_facts import all_items, halve
from kcircuits.study.between.run_pairs import (
    Kind,
    Pair,
    cell_pairs,
    check_facts,
    common_epochs,
    hashes_at,
    method_of,
    names_of,
)
from kcircuits.study.diff.fact_diff import FactDiff, compare_facts, group_by_stratum
from kcircuits.study.diff.tables import number, stratum_row
from kcircuits.study.run import Run
from kcircuits.study.strata import require_stratum

if TYPE_CHECKING:
    import plotly.graph_objects as go

Row = dict[str, Any]
_OF_A_METHOD = ("method", "parameters", "discovery prompts")


@dataclass(frozen=True, kw_only=True)
class BetweenRuns:
    """The same facts in two runs or by two methods; see ``read``.

    Attributes:
        kind: ``runs`` or ``methods``.
        names: Of the two.
        methods: Method of either.
        params: Its parameters.
        level: Whether overlaps count edges or nodes.
        by: Stratum key of the rows; None for one row an epoch.
        epochs: Ids of the epochs compared.
        hashes: Content hashes of either's checkpoint at each epoch.
        n_edges: The budget.
        topology: The graph.
        n_prompts: Rows of scores compared, the smallest number if facts differ.
        missing: Facts that lack a cell in one of the two, by epoch.
        rows: One row per epoch and stratum: the fields of ``Diff.rows`` with ``epoch``; ``gained``
            counts items of the second alone, ``lost`` of the first alone, ``kept`` of both. And
            ``own`` and ``others``: what a fact shares with itself and with other facts of its
            relation on the other side, ``own_facts`` of them; ``own_more`` with ``own_more_low``
            and ``own_more_high``: their difference; ``own_p``: its p. None where there is none.
        fact_rows: One row per epoch and fact, with ``fact`` and ``known`` on either side.
    """

    kind: Kind
    names: tuple[str, str]
    methods: tuple[str, str]
    params: tuple[Mapping[str, Any], Mapping[str, Any]]
    level: Level
    by: str | None
    epochs: tuple[str, ...]
    hashes: Mapping[str, tuple[str, str]]
    n_edges: int
    topology: Topology
    n_prompts: int
    missing: Mapping[str, tuple[str, ...]]
    rows: list[Row]
    fact_rows: list[Row]

    @classmethod
    def read(
        cls,
        run: Run,
        other: Run,
        epochs: Sequence[str] | None = None,
        *,
        by: str | None = None,
        level: Level = "edge",
        progress: Callable[[Sequence[str]], Any] = iter,
    ) -> "BetweenRuns":
        """Compares two runs, or two methods, at each epoch.

        Args:
            run: The one.
            other: The other: by the same method, or the same checkpoints by another.
            epochs: References to epochs; default all at which both have cells.
            by: Stratum key (or ``relation``) to group facts by.
            level: Compare edges or nodes.
            progress: Passes the epochs through and shows how far it is.

        Raises:
            UsageError: There is no such epoch or stratum.
            IncomparableError: Other facts, tokens, graph, budget or numerics; other checkpoints
                *and* another method; no common epoch or fact.
        """
        kind: Kind = "runs" if method_of(run) == method_of(other) else "methods"
        names = names_of(run, other, kind)
        check_facts(run, other, names)
        require_stratum(by, run.facts)
        shared = common_epochs(run, other, epochs, kind, names)
        facts = {fact.id: fact for fact in run.facts}
        rows: list[Row] = []
        fact_rows: list[Row] = []
        missing: dict[str, tuple[str, ...]] = {}
        n_prompts: list[int] = []
        first: Cell | None = None
        for epoch in progress(shared):
            pairs, lacking = cell_pairs(run, other, epoch)
            first = first or next(iter(pairs.values()))[0]
            check_comparable(
                [first, *(cell for pair in pairs.values() for cell in pair)],
                may_differ=() if kind == "runs" else _OF_A_METHOD,
            )
            step = _Step(epoch=epoch, kind=kind, names=names, level=level, by=by)
            compared, pairs = step.compare(pairs, facts)
            rows += step.rows(compared, pairs)
            fact_rows += step.fact_rows(compared)
            n_prompts += [one.overlap.n_prompts for one in compared]
            if lacking:
                missing[epoch] = lacking
        assert first is not None  # there is an epoch with a common fact
        return cls(
            kind=kind,
            names=names,
            methods=(run.method, other.method),
            params=(method_of(run)[1], method_of(other)[1]),
            level=level,
            by=by,
            epochs=tuple(shared),
            hashes={epoch: hashes_at(run, other, epoch) for epoch in shared},
            n_edges=first.n_edges,
            topology=first.topology,
            n_prompts=min(n_prompts),
            missing=missing,
            rows=rows,
            fact_rows=fact_rows,
        )

    def plot(self) -> "go.Figure":
        """Jaccard between chance and ceiling over epochs, and what other facts share."""
        from kcircuits.plots.between import runs_figure, runs_table  # plotly is slow to import

        return runs_figure(runs_table(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """As ``kcircuits overlap --with REF --json`` prints it."""
        return {
            "schema": "kcircuits.overlap-with/1",
            "kind": self.kind,
            "names": list(self.names),
            "methods": list(self.methods),
            "params": [dict(params) for params in self.params],
            "level": self.level,
            "by": self.by,
            "epochs": list(self.epochs),
            "hashes": {epoch: list(pair) for epoch, pair in self.hashes.items()},
            "n_edges": self.n_edges,
            "edges": self.topology.n_edges,
            "prompts": self.n_prompts,
            "missing": {epoch: list(ids) for epoch, ids in self.missing.items()},
            "rows": self.rows,
            "facts": self.fact_rows,
        }


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One epoch."""

    epoch: str
    kind: Kind
    names: tuple[str, str]
    level: Level
    by: str | None

    def compare(
        self, pairs: Mapping[str, Pair], facts: Mapping[str, Fact]
    ) -> tuple[tuple[FactDiff, ...], Mapping[str, Pair]]:
        """Every fact's two circuits, and its cells on the same rows."""
        if self.kind == "runs":
            return compare_facts(pairs, facts, self.names, self.level), pairs
        topology = next(iter(pairs.values()))[0].topology
        found, folded = [], {}
        for fact_id, pair in pairs.items():
            fact = facts[fact_id]
            folded[fact_id], templates = common_rows(fact, pair)
            found.append(_by_two_methods(fact, folded[fact_id], templates, topology, self.level))
        return tuple(found), folded

    def rows(self, compared: Sequence[FactDiff], pairs: Mapping[str, Pair]) -> list[Row]:
        """A row for each stratum."""
        found = []
        for name, members in group_by_stratum(compared, self.by).items():
            entering = [one for one in members if one.is_compared]
            verdict = None if self.kind == "runs" else _judge(entering)
            row = stratum_row(name, entering if verdict else members, verdict)
            row["unknown"] = len(members) - len(entering)
            if not entering:
                row["reason"] = "no fact is known in both"
            own = self._own_facts(entering, pairs)
            found.append({"epoch": self.epoch, **row, **_own_row(own)})
        return found

    def fact_rows(self, compared: Sequence[FactDiff]) -> list[Row]:
        """A row for each fact."""
        return [
            {
                "epoch": self.epoch,
                "fact": one.fact.id,
                "known": list(one.known),
                **stratum_row(one.stratum(self.by), [one], one.verdict),
            }
            for one in compared
        ]

    def _own_facts(self, members: Sequence[FactDiff], pairs: Mapping[str, Pair]) -> OwnFacts | None:
        """Facts beside others of their relation."""
        members = [one for one in members if one.overlap.n_prompts >= 2]
        if not members:
            return None
        topology = next(iter(pairs.values()))[0].topology
        sides = [
            [
                halve(
                    one.fact,
                    pairs[one.fact.id][side],
                    self.level,
                    templates=[tuple(text.split("\n")) for text in one.templates],
                )
                for one in members
            ]
            for side in (0, 1)
        ]
        return own_facts(
            [one.halves for one in sides[0]],
            [one.halves for one in sides[1]],
            all_items(topology, self.level)[0],
            np.array([one.fact.relation for one in members]),
            np.array([one.fact.subject for one in members]),
            meet_own_templates([one.templates for one in sides[0]]),
        )


def _by_two_methods(
    fact: Fact, pair: Pair, templates: Sequence[Sequence[str]], topology: Topology, level: Level
) -> FactDiff:
    scores = align_cells(pair, topology)
    overlap = compare_fact(
        scores.values, pair[0].n_edges, scores.items(topology), level, can_swap=False
    )
    return FactDiff(
        fact=fact,
        templates=tuple("\n".join(names) for names in templates),
        known=(pair[0].is_known, pair[1].is_known),
        candidates=scores.candidates,
        scores=scores.values.mean(1),
        is_kept=scores.is_candidate,
        overlap=overlap,
        verdict=judge_methods([overlap], [fact.subject]),
    )


def _judge(members: Sequence[FactDiff]) -> Verdict:
    return judge_methods([one.overlap for one in members], [one.fact.subject for one in members])


def _own_row(found: OwnFacts | None) -> Row:
    if found is None:
        names = ("own", "others", "own_more", "own_more_low", "own_more_high", "own_p")
        return {**dict.fromkeys(names), "own_facts": 0}
    return {
        "own": number(found.own),
        "others": number(found.other),
        "own_more": number(found.difference.estimate),
        "own_more_low": number(found.difference.low),
        "own_more_high": number(found.difference.high),
        "own_p": number(found.p),
        "own_facts": found.n_facts,
    }
