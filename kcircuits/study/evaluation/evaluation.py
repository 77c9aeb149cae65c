"""How faithful the circuits of an epoch are: the tables of an evaluation. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from kcircuits.core.bootstrap import (
    BootstrapInterval,
    bootstrap_mean,
    bootstrap_ratio,
)
from kcircuits.core.circuit import Circuits
from kcircuits.core.curve import FaithfulnessCurve
from kcircuits.core.facts import Fact
from kcircuits.core.faithfulness import Faithfulness
from kcircuits.core.random_circuits import Match
from kcircuits.core.ranking import By
from kcircuits.engine.metrics import get_metric
from kcircuits.study.diff.tables import number

if TYPE_CHECKING:
    import plotly.graph_objects as go

Row = dict[str, Any]
# What random circuits keep of a circuit, in words.
BASELINES: Mapping[Match, str] = {
    "size": "random",
    "layer": "random, layers matched",
    "degree": "random, degrees matched",
}
# Which circuits each area is taken over.
AREAS: Mapping[str, By] = {"cpr": "importance", "cmd": "size"}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How faithful the circuits of an epoch are; see ``evaluate_run``.

    Attributes:
        epoch: Id of the checkpoint.
        content_hash: Its content hash.
        run: Name of the run.
        method: What found the circuits.
        params: Its parameters.
        metric: What faithfulness is measured by.
        facts: The facts, in order.
        left_out: Facts whose cell at this epoch has no numbers.
        circuits: Each fact's circuit.
        faithfulness: Its numbers; gated facts have NaN, and the raw metrics.
        intervals: Of each fact's faithfulness, over its evaluation prompts.
        baselines: Faithfulness of random circuits [draw, fact]; NaN where gated.
        curves: By what edges were ranked by; empty where no curve was asked for.
        seed: Of intervals and random circuits.
    """

    epoch: str
    content_hash: str
    run: str
    method: str
    params: Mapping[str, Any]
    metric: str
    facts: tuple[Fact, ...]
    left_out: tuple[str, ...]
    circuits: Circuits
    faithfulness: Faithfulness
    intervals: BootstrapInterval
    baselines: Mapping[Match, Float[np.ndarray, "draw fact"]]
    curves: Mapping[By, FaithfulnessCurve]
    seed: int

    @property
    def unit(self) -> str:
        """Unit of the metric."""
        return get_metric(self.metric).unit

    @property
    def subjects(self) -> np.ndarray:
        """Subject of each fact, which intervals over facts draw whole."""
        return np.array([fact.subject for fact in self.facts])

    @property
    def fact_rows(self) -> list[Row]:
        """One row per fact.

        Fields: ``fact``, ``prompts`` (that it is judged on), ``edges`` (without dangling nodes),
        ``is_gated``, ``faithfulness`` with ``low`` and ``high`` (None where gated), ``hit_at_10``,
        ``target_rank``, the raw ``metric`` of the circuit, ``clean_metric`` of the model and
        ``empty_metric`` with every edge ablated; the mean over draws of each baseline by its
        name; ``cpr`` and ``cmd`` where curves were asked for.
        """
        judged, areas = self.faithfulness, self._areas()
        return [
            {
                "fact": fact.id,
                "prompts": int(self.intervals.n_units[i]),
                "edges": int(self.circuits.n_edges[i]),
                "is_gated": bool(judged.is_gated[i]),
                "faithfulness": number(judged.faithfulness[i]),
                "low": number(self.intervals.low[i]),
                "high": number(self.intervals.high[i]),
                "hit_at_10": float(judged.hit_at_k[i]),
                "target_rank": float(judged.target_rank[i]),
                "metric": float(judged.metric[i]),
                "clean_metric": float(judged.clean_metric[i]),
                "empty_metric": float(judged.empty_metric[i]),
                **{name: number(drawn[:, i].mean()) for name, drawn in self.baselines.items()},
                **{name: number(values[i]) for name, values in areas.items()},
            }
            for i, fact in enumerate(self.facts)
        ]

    @property
    def set_rows(self) -> list[Row]:
        """Two rows for all facts that are not gated: ``mean of ratios`` and ``ratio of means``.

        Fields: ``set``, ``facts``, ``subjects``, ``faithfulness`` with ``low`` and ``high`` over
        subjects; the mean over draws of each baseline by its name.
        """
        judged = self.faithfulness
        gap = np.where(judged.is_gated, np.nan, judged.clean_metric - judged.empty_metric)
        gained = judged.metric - judged.empty_metric
        of_ratios = bootstrap_mean(judged.faithfulness, self.subjects, seed=self.seed)
        of_means = bootstrap_ratio(gained, gap, self.subjects, seed=self.seed)
        kept = ~judged.is_gated

        def mean(drawn: Float[np.ndarray, "draw fact"]) -> float:
            return float(drawn[:, kept].mean()) if kept.any() else np.nan

        def pooled(drawn: Float[np.ndarray, "draw fact"]) -> float:
            """Mean over draws of their ratio of means; the gaps are the same in all."""
            return mean(drawn * gap / gap[kept].mean()) if kept.any() else np.nan

        return [
            {
                "set": name,
                "facts": int(kept.sum()),
                "subjects": int(interval.n_units),
                "faithfulness": number(float(interval.estimate)),
                "low": number(float(interval.low)),
                "high": number(float(interval.high)),
                **{
                    match: number(of(drawn))
                    for match, drawn in self.baselines.items()
                    if kept.any()
                },
            }
            for name, interval, of in (
                ("mean of ratios", of_ratios, mean),
                ("ratio of means", of_means, pooled),
            )
        ]

    @property
    def area_rows(self) -> list[Row]:
        """CPR and CMD of the set, both ways: ``area``, ``set``, ``value``, ``low``, ``high``."""
        rows: list[Row] = []
        for area, by in AREAS.items():
            if by not in self.curves:
                continue
            intervals = self.curves[by].set_intervals(self.subjects, seed=self.seed)
            for way in ("ratio_of_means", "mean_over_facts"):
                found = intervals[f"{area}_{way}"]
                ends = {"value": found.estimate, "low": found.low, "high": found.high}
                values = {name: number(float(end)) for name, end in ends.items()}
                rows.append({"area": area, "set": way.replace("_", " "), **values})
        return rows

    def plot(self) -> "go.Figure":
        """Faithfulness of each fact with its interval, beside random circuits."""
        from kcircuits.plots.faithfulness import faithfulness_figure  # plotly is slow to import

        labels = {name: BASELINES[name] for name in self.baselines}
        return faithfulness_figure(self.fact_rows, labels)

    def to_json(self) -> dict[str, Any]:
        """The evaluation as ``kcircuits evaluate --json`` prints it."""
        judged = self.faithfulness
        return {
            "schema": "kcircuits.evaluate/1",
            "epoch": self.epoch,
            "hash": self.content_hash,
            "run": self.run,
            "method": self.method,
            "params": dict(self.params),
            "ablation": judged.ablation,
            "metric": self.metric,
            "unit": self.unit,
            "n_edges": int(self.circuits.n_selected[0]),
            "fraction": int(self.circuits.n_selected[0]) / self.circuits.topology.n_edges,
            "prompts": judged.prompts,
            "confidence": self.intervals.confidence,
            "seed": self.seed,
            "draws": max((len(drawn) for drawn in self.baselines.values()), default=0),
            "facts": self.fact_rows,
            "set": self.set_rows,
            "areas": self.area_rows,
            "curve": [row for curve in self.curves.values() for row in curve.rows()],
            "left_out": list(self.left_out),
        }

    def _areas(self) -> dict[str, Float[np.ndarray, " fact"]]:
        return {
            area: getattr(self.curves[by], area)()
            for area, by in AREAS.items()
            if by in self.curves
        }
