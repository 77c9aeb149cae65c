"""What circuits of one epoch do on the weights of others: the tables. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.transfer.lines import Sources, chosen_measures, line_choices, source_shares
from kcircuits.analysis.transfer.rows import (
    MEASURES,
    WAYS,
    Measures,
    OnWeights,
    loss_both_ways,
    transfer_rows,
)
from kcircuits.core.bootstrap import CONFIDENCE
from kcircuits.core.facts import Fact
from kcircuits.engine.metrics import get_metric
from kcircuits.study.diff.tables import number
from kcircuits.study.strata import strata_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

Row = dict[str, Any]
_BOTH_WAYS = ("loss_both_ways", "loss_both_ways_low", "loss_both_ways_high")


@dataclass(frozen=True, kw_only=True)
class TargetTransfer:
    """Circuits on the weights of one epoch.

    Attributes:
        at: The facts there, with their own circuits.
        moved: Circuits of every source epoch; NaN where a fact has none.
        random: Random circuits like them, mean over draws; NaN without draws.
        strata: Circuits of strata at this epoch, by stratum.
        strata_random: Random circuits like those.
        n_facts: Of each stratum's circuit of each fact, how many facts shaped it; 0 where none.
        n_entities: How many entities.
    """

    at: OnWeights
    moved: Float[np.ndarray, "source measure fact"]
    random: Float[np.ndarray, "source measure fact"]
    strata: Mapping[str, Measures] = field(default_factory=dict)
    strata_random: Mapping[str, Measures] = field(default_factory=dict)
    n_facts: Mapping[str, Int[np.ndarray, " fact"]] = field(default_factory=dict)
    n_entities: Mapping[str, Int[np.ndarray, " fact"]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Transfer of circuits between epochs, and between strata; see ``transfer_run``.

    Attributes:
        run: Name of the run.
        method: What found the circuits.
        params: Its parameters.
        n_edges: Edges of a circuit, dangling nodes included.
        n_total: Edges of the graph.
        metric: What faithfulness is measured by.
        ablation: What edges outside a circuit carry.
        facts: The facts, in order.
        sources: Epochs that circuits come from.
        epochs: Epochs whose weights they run on, with what came out.
        hashes: Content hashes of all these checkpoints.
        known_at: The facts at the sources.
        by: Stratum key; None where strata were not asked for.
        n_draws: Random circuits beside each circuit.
        seed: Of intervals, splits and random circuits.
        n_computed: Circuits of facts that this call has run; the others were there.
    """

    run: str
    method: str
    params: Mapping[str, Any]
    n_edges: int
    n_total: int
    metric: str
    ablation: str
    facts: tuple[Fact, ...]
    sources: tuple[str, ...]
    epochs: Mapping[str, TargetTransfer]
    hashes: Mapping[str, str]
    known_at: Sources
    by: str | None
    n_draws: int
    seed: int
    n_computed: int

    @property
    def targets(self) -> tuple[str, ...]:
        """Epochs whose weights the circuits run on."""
        return tuple(self.epochs)

    @property
    def unit(self) -> str:
        """Unit of the metric."""
        return get_metric(self.metric).unit

    @cached_property
    def rows(self) -> list[Row]:
        """The matrix: two rows per pair of epochs, the ratio of means and the mean of ratios.

        Fields: ``from`` (where the circuits come from), ``to`` (on whose weights they run), those
        of ``analysis.transfer.transfer_rows``, and ``loss_both_ways`` with ``_low`` and ``_high``,
        None unless both epochs are sources and targets.
        """
        return [
            {"from": source, "to": target, **row, **both}
            for i, source in enumerate(self.sources)
            for target, found in self.epochs.items()
            for row, both in zip(
                transfer_rows(
                    found.at,
                    found.moved[i],
                    found.random[i],
                    self.known_at.is_known[i],
                    seed=self.seed,
                ),
                self._both_ways(source, target),
                strict=True,
            )
        ]

    def _both_ways(self, source: str, target: str) -> list[Row]:
        if source not in self.epochs or target not in self.sources:
            return [dict.fromkeys(_BOTH_WAYS) for _ in WAYS]
        there, back = self.epochs[target], self.epochs[source]
        return loss_both_ways(
            there.at,
            there.moved[self.sources.index(source)],
            back.at,
            back.moved[self.sources.index(target)],
            seed=self.seed,
        )

    @cached_property
    def lines(self) -> list[Row]:
        """Before, first known, after and best circuits on the weights of every epoch.

        Fields: ``line``, ``to``, ``chosen`` (share of facts by the epoch that their circuit comes
        from) and those of ``rows``. See ``analysis.transfer.line_choices``.
        """
        choices = line_choices(self.known_at, seed=self.seed)
        rows: list[Row] = []
        for line, choice in choices.items():
            for target, found in self.epochs.items():
                moved, is_known = chosen_measures(choice, found.moved, self.known_at.is_known)
                random, _ = chosen_measures(choice, found.random, self.known_at.is_known)
                enters = is_known & found.at.is_known
                chosen = source_shares(choice, enters, self.sources)
                head: Row = {"line": line, "to": target, "chosen": chosen}
                table = transfer_rows(found.at, moved, random, is_known, seed=self.seed)
                rows += [{**head, **row} for row in table]
        return rows

    @cached_property
    def strata(self) -> list[Row]:
        """Circuits of each stratum on the facts of each, at one epoch; none without ``by``.

        Fields: ``epoch``, ``from`` (stratum of the circuit), ``to`` (stratum of the facts),
        ``circuit_facts`` and ``circuit_entities`` (that shaped the smallest of its circuits) and
        those of ``rows``; ``own`` is each fact's own circuit.
        """
        if self.by is None:
            return []
        places = strata_of(self.facts, self.by)
        return [
            {"epoch": epoch, "from": source, "to": target, **row}
            for epoch, found in self.epochs.items()
            for source in found.strata
            for target, members in places.items()
            for row in self._stratum_rows(found, source, members)
        ]

    def _stratum_rows(self, found: TargetTransfer, source: str, members: list[int]) -> list[Row]:
        inside = np.isin(np.arange(len(self.facts)), members)
        moved, sizes = found.strata[source][:, inside], found.n_facts[source][inside]
        n_entities = found.n_entities[source][inside]
        has_circuit = sizes > 0
        head = {
            "circuit_facts": int(sizes[has_circuit].min()) if has_circuit.any() else 0,
            "circuit_entities": int(n_entities[has_circuit].min()) if has_circuit.any() else 0,
        }
        at, random = found.at.only(inside), found.strata_random[source][:, inside]
        everyone = np.ones(len(members), dtype=bool)
        return [
            {**head, **row} for row in transfer_rows(at, moved, random, everyone, seed=self.seed)
        ]

    def faithfulness(self, source: str, target: str) -> Float[np.ndarray, " fact"]:
        """Of each fact's circuit of one epoch on the weights of another; NaN where gated there."""
        found = self.epochs[target]
        return _ratio(found.moved[self.sources.index(source)], found.at)

    @cached_property
    def fact_rows(self) -> list[Row]:
        """One row per fact, the numbers of all pairs of epochs in lists [from][to].

        Fields: ``fact``; ``is_known`` [from] and ``is_known_to`` [to], whether it passes the gate;
        ``faithfulness`` (None where gated on those weights), ``hit_at_1``, ``hit_at_10``,
        ``target_rank``, ``metric`` [from][to]; ``clean_metric`` and ``empty_metric`` [to].
        """
        found = list(self.epochs.values())
        ratios = np.array([[self.faithfulness(s, t) for t in self.targets] for s in self.sources])
        values = np.array([one.moved for one in found]).swapaxes(0, 1)
        return [
            {
                "fact": fact.id,
                "is_known": self.known_at.is_known[:, i].tolist(),
                "is_known_to": [bool(one.at.is_known[i]) for one in found],
                "faithfulness": _numbers(ratios[:, :, i]),
                **{name: _numbers(values[:, :, k, i]) for k, name in enumerate(MEASURES)},
                "clean_metric": [number(one.at.clean[i]) for one in found],
                "empty_metric": [number(one.at.empty[i]) for one in found],
            }
            for i, fact in enumerate(self.facts)
        ]

    def plot(self) -> "go.Figure":
        """Faithfulness of every epoch's circuits on every epoch's weights, beside random ones."""
        from kcircuits.plots.transfer import transfer_figure  # plotly is slow to import

        return transfer_figure(self.rows)

    def to_json(self) -> dict[str, Any]:
        """The transfer as ``kcircuits transfer --json`` prints it."""
        return {
            "schema": "kcircuits.transfer/1",
            "run": self.run,
            "method": self.method,
            "params": dict(self.params),
            "n_edges": self.n_edges,
            "fraction": self.n_edges / self.n_total,
            "metric": self.metric,
            "unit": self.unit,
            "ablation": self.ablation,
            "from": list(self.sources),
            "to": list(self.targets),
            "hashes": dict(self.hashes),
            "by": self.by,
            "draws": self.n_draws,
            "seed": self.seed,
            "confidence": CONFIDENCE,
            "rows": self.rows,
            "lines": self.lines,
            "strata": self.strata,
            "facts": self.fact_rows,
        }


def _ratio(moved: Measures, at: OnWeights) -> Float[np.ndarray, " fact"]:
    is_known: Bool[np.ndarray, " fact"] = at.is_known
    gap = np.where(is_known, at.clean - at.empty, np.nan)
    return (moved[0] - at.empty) / gap


def _numbers(values: Float[np.ndarray, "source target"]) -> list[list[float | None]]:
    return [[number(value) for value in line] for line in values.tolist()]
