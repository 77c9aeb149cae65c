"""How alike the circuits of a run are between all pairs of its epochs.

Of each fact only its tables [measure, epoch, epoch] are kept; means, turnover and intervals over
facts are worked out from these.
Facts not known at both epochs of a pair stay out of it and are counted, as in a diff. Verdicts are
those of the steps ``previous``, ``first`` and ``last``, which read the run again.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from kcircuits.analysis.overlap.all_pairs import OVERLAP
from kcircuits.analysis.overlap.corrected import Level
from kcircuits.analysis.overlap.pair_summary import (
    N_RESAMPLES,
    PairSummary,
    compared_pairs,
    summarise_pairs,
)
from kcircuits.core.facts import Fact
from kcircuits.core.score_meaning import ScoreMeaning
from kcircuits.core.topology import Topology
from kcircuits.errors import UsageError
from kcircuits.study.fact_cells import FactCells
from kcircuits.study.overlap.epoch_steps import Against, EpochSteps
from kcircuits.study.overlap.fact_pairs import FactPairs, PairOptions
from kcircuits.study.overlap.tables import matrix_text, null_tables, pair_rows
from kcircuits.study.strata import require_stratum, strata_of

if TYPE_CHECKING:
    import plotly.graph_objects as go


Row = dict[str, Any]
Source = Callable[[], Iterable[FactCells]]


@dataclass(frozen=True, kw_only=True, repr=False)
class EpochOverlap:
    """Overlap between all pairs of epochs; made by ``overlap_run``.

    Attributes:
        epochs: Ids of the epochs, in training order.
        hashes: Content hashes of their checkpoints.
        unverified: Those whose checkpoint declares no hash.
        method: Attribution method.
        params: Its parameters.
        meaning: What its scores say.
        rows_are: What it scores apart: discovery prompts, or folds of them.
        n_edges: Budget as a count.
        fraction: Budget as a share of all edges.
        topology: The graph.
        options: What was worked out of each fact.
        fact_pairs: The facts that have a result, with their tables.
        by: Stratum key of the rows; None for one stratum ``all``.
        seed: Of the resamples.
        source: Reads the facts anew, for the steps.
    """

    epochs: tuple[str, ...]
    hashes: tuple[str | None, ...]
    unverified: tuple[str, ...] = ()
    method: str
    params: Mapping[str, Any]
    meaning: ScoreMeaning
    rows_are: str
    n_edges: int
    fraction: float
    topology: Topology
    options: PairOptions
    fact_pairs: tuple[FactPairs, ...]
    by: str | None = None
    seed: int = 0
    source: Source = field(repr=False)

    def __getitem__(self, fact_id: str) -> FactPairs:
        for one in self.fact_pairs:
            if one.fact.id == fact_id:
                return one
        raise UsageError(
            f"fact {fact_id!r} has no result in this run", field="fact", hint="see `kcircuits ls`"
        )

    def __repr__(self) -> str:
        stratum = next(iter(self.summaries))
        return matrix_text(self, stratum)

    @property
    def level(self) -> Level:
        """Whether overlaps count edges or nodes."""
        return self.options.level

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The facts that have a result."""
        return tuple(one.fact for one in self.fact_pairs)

    @property
    def n_prompts(self) -> int:
        """Discovery prompts (or folds) per fact, P; the smallest number if facts differ."""
        return min(one.n_prompts for one in self.fact_pairs)

    @property
    def without_halves(self) -> tuple[str, ...]:
        """Facts of one discovery prompt: it cannot be halved, and they are left out."""
        return tuple(one.fact.id for one in self.fact_pairs if one.n_prompts < 2)

    @cached_property
    def tables(self) -> Mapping[str, Float[np.ndarray, "fact epoch epoch"]]:
        """The tables of all facts by name, see ``PairTables``; NaN where a fact has none.

        Further names: ``others``, the overlap with another fact of the same relation; ``pruned``
        and ``degree`` where they were asked for.
        """
        empty = np.full((len(self.epochs), len(self.epochs)), np.nan)
        names = {name: None for one in self.fact_pairs for name in one.pairs.tables}
        names |= dict.fromkeys((OVERLAP, f"{OVERLAP}_chance"))
        return {
            name: np.stack([one.pairs.tables.get(name, empty) for one in self.fact_pairs])
            for name in names
        }

    @cached_property
    def is_identical(self) -> Bool[np.ndarray, "fact epoch epoch"]:
        """Where a fact's scores are equal at both epochs."""
        return np.stack([one.pairs.is_identical for one in self.fact_pairs])

    @cached_property
    def is_compared(self) -> Bool[np.ndarray, "fact epoch epoch"]:
        """Which facts enter each pair of epochs."""
        return compared_pairs(
            np.stack([one.is_known for one in self.fact_pairs]), self.is_identical
        )

    @cached_property
    def strata(self) -> dict[str, list[int]]:
        """Places of the facts of each stratum."""
        return strata_of(self.facts, self.by)

    @cached_property
    def summaries(self) -> dict[str, PairSummary]:
        """Means, turnover and intervals of each stratum."""
        return {
            stratum: summarise_pairs(
                {name: table[places] for name, table in self.tables.items()},
                self.is_compared[places],
                self.is_identical[places],
                np.array([self.facts[i].subject for i in places]),
                n_resamples=N_RESAMPLES,
                seed=self.seed,
            )
            for stratum, places in self.strata.items()
        }

    @cached_property
    def rows(self) -> list[Row]:
        """One row per stratum and pair of epochs, the earlier one first.

        Fields: ``stratum, from, to``, ``facts`` and ``entities`` that enter; ``jaccard`` of one
        half of the prompts at one epoch with the other half at the other, ``ceiling`` (what no
        change would give), ``chance``, ``chance_matched`` (edges within blocks of layers; None
        for nodes) and ``other_facts`` (facts of the same relation); ``turnover``; ``gained``,
        ``lost``, ``kept`` items per fact; ``jaccard_same_prompts``. ``_low`` and ``_high`` are 95%
        intervals over entities. Where ``from`` equals ``to`` the Jaccard is the ceiling of that
        epoch. Where asked for: ``measures`` by name with ``value, ceiling, chance, turnover``;
        ``jaccard_pruned``, ``chance_degree``; ``turnover_low_prompts`` and ``_high_prompts`` over
        prompts; ``swap_p`` and ``swap_turnover``, what swapped labels reach in one case of twenty.
        """
        return [
            row
            for stratum, summary in self.summaries.items()
            for row in pair_rows(self.epochs, stratum, summary, self._nulls(stratum))
        ]

    @cached_property
    def previous(self) -> EpochSteps:
        """Each epoch against the one before, with verdicts."""
        return self.against("previous")

    @cached_property
    def first(self) -> EpochSteps:
        """Each epoch against the first, with verdicts."""
        return self.against("first")

    @cached_property
    def last(self) -> EpochSteps:
        """Each epoch against the last, with verdicts."""
        return self.against("last")

    def against(self, which: Against) -> EpochSteps:
        """Steps with tests and verdicts, for which the facts are read again.

        Args:
            which: ``previous``, ``first`` or ``last``.

        Raises:
            UsageError: Another name, or fewer than two epochs.
        """
        return EpochSteps.from_facts(
            self.source(),
            epochs=self.epochs,
            against=which,
            level=self.level,
            by=self.by,
        )

    def grouped(self, by: str | None) -> "EpochOverlap":
        """The same by another stratum; nothing is read again.

        Raises:
            UsageError: No fact has the stratum.
        """
        require_stratum(by, self.facts)
        return replace(self, by=by)

    def matrix(self, field: str = "jaccard", stratum: str | None = None) -> np.ndarray:
        """A field of the rows as an array [epoch, epoch], NaN where there is no number.

        Args:
            field: A number of ``rows``.
            stratum: Which; default the first.
        """
        name = next(iter(self.summaries)) if stratum is None else stratum
        made = np.full((len(self.epochs), len(self.epochs)), np.nan)
        place = {epoch: i for i, epoch in enumerate(self.epochs)}
        back = {"gained": "lost", "lost": "gained"}.get(field, field)
        for row in (row for row in self.rows if row["stratum"] == name):
            s, t = place[row["from"]], place[row["to"]]
            for ends, value in (((t, s), row[back]), ((s, t), row[field])):
                made[ends] = np.nan if value is None else value
        return made

    def plot(self, field: str = "jaccard", stratum: str | None = None) -> "go.Figure":
        """Heat map of the Jaccard, or of ``turnover``, of one stratum; default the first."""
        # plotly takes longer to import than an overlap may take to answer
        from kcircuits.plots.overlap import overlap_figure, overlap_table, turnover_figure

        name = next(iter(self.summaries)) if stratum is None else stratum
        table = overlap_table([row for row in self.rows if row["stratum"] == name])
        return turnover_figure(table) if field == "turnover" else overlap_figure(table)

    def to_json(self) -> dict[str, Any]:
        """The document that ``kcircuits overlap --json`` prints, without steps."""
        return {
            "schema": "kcircuits.overlap/1",
            "epochs": list(self.epochs),
            "checkpoints": dict(zip(self.epochs, self.hashes, strict=True)),
            "unverified": list(self.unverified),
            "level": self.level,
            "method": self.method,
            "params": dict(self.params),
            "fraction": self.fraction,
            "n_edges": self.n_edges,
            "prompts": self.n_prompts,
            "prompts_are": self.rows_are,
            "facts": len(self.fact_pairs),
            "without_halves": list(self.without_halves),
            "rows": self.rows,
        }

    def _nulls(self, stratum: str) -> dict[str, Float[np.ndarray, "epoch epoch"]]:
        """Intervals over prompts and swapped labels, where they were asked for."""
        return null_tables(
            [self.fact_pairs[i] for i in self.strata[stratum]],
            self.is_compared[self.strata[stratum]],
            self.options,
        )
