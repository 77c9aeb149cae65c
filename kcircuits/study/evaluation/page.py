"""The page of one evaluation."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kcircuits.core.curve import FaithfulnessCurve
from kcircuits.core.random_circuits import Match
from kcircuits.core.ranking import By
from kcircuits.plots.faithfulness import curve_figure
from kcircuits.plots.page import Block, cards_block, figure_block, render_page, table_block
from kcircuits.plots.theme import number
from kcircuits.study.evaluation.evaluation import AREAS, BASELINES, Evaluation

Row = dict[str, Any]
_HEADS: Mapping[Match, str] = {"size": "random", "layer": "by layer", "degree": "by degree"}
_RANKED: Mapping[By, str] = {"size": "by |score| (CMD)", "importance": "by importance (CPR)"}


def evaluation_page(evaluation: Evaluation) -> str:
    """The evaluation as one self-contained HTML text."""
    blocks = [_summary(evaluation), _facts(evaluation)]
    if evaluation.curves:
        blocks.append(_curves(evaluation))
    blocks.append(_fact_table(evaluation))
    return render_page(
        kind="Circuit evaluation",
        title=f"{evaluation.run}, {evaluation.epoch}",
        details=_details(evaluation),
        blocks=blocks,
    )


def _details(evaluation: Evaluation) -> list[Row]:
    params = ", ".join(f"{key} {value}" for key, value in evaluation.params.items())
    n_edges, n_total = (
        int(evaluation.circuits.n_selected[0]),
        evaluation.circuits.topology.n_edges,
    )
    prompts = sorted({row["prompts"] for row in evaluation.fact_rows})
    kind = "evaluation" if evaluation.faithfulness.prompts == "evaluation" else "discovery"
    values = {
        "Method": f"{evaluation.method} ({params})" if params else evaluation.method,
        "Budget": f"{n_edges:,} of {n_total:,} edges ({100 * n_edges / n_total:.2g}%) per circuit",
        "Other edges": f"{evaluation.faithfulness.ablation} ablation",
        "Metric": f"{evaluation.metric} ({evaluation.unit})",
        "Prompts": f"{' or '.join(map(str, prompts))} {kind} prompts per fact",
    }
    epoch = {"t": evaluation.epoch, "note": evaluation.content_hash[:7]}
    rows = [{"label": label, "values": [{"t": text}]} for label, text in values.items()]
    return [{"label": "Epoch", "values": [epoch]}, *rows]


def _summary(evaluation: Evaluation) -> Block:
    rows = evaluation.set_rows
    cards = [
        {
            "label": f"faithfulness, {row['set']}",
            "value": number(row["faithfulness"]),
            "note": f"{number(row['low'])} to {number(row['high'])}; {row['facts']} facts about "
            f"{row['subjects']} subjects",
        }
        for row in rows
    ]
    cards += [
        {
            "label": f"{row['area'].upper()}, {row['set']}",
            "value": number(row["value"], 3),
            "note": f"{number(row['low'], 3)} to {number(row['high'], 3)}",
        }
        for row in evaluation.area_rows
    ]
    for name in evaluation.baselines:
        note = f"ratio of means {number(rows[1][name])}"
        cards.append({"label": BASELINES[name], "value": number(rows[0][name]), "note": note})
    caption = (
        "Faithfulness is 1 where the circuit does all that the model does and 0 where it does what "
        "is left without any edge; facts that the model does not know are left out. Mean of ratios "
        "weighs all facts alike, ratio of means by how much there is to explain. Intervals are 95% "
        "bootstrap intervals over subjects."
    )
    if evaluation.curves:
        caption += (
            " CPR is the area under faithfulness over circuit size (higher is better), CMD the "
            "area between faithfulness and 1 (lower is better)."
        )
    return cards_block("summary", "Summary", cards, caption)


def _facts(evaluation: Evaluation) -> Block:
    caption = (
        "Each fact's circuit with a 95% interval over its evaluation prompts (few prompts make it "
        "too short)."
    )
    if evaluation.baselines:
        caption += (
            " Grey: the mean of random circuits of as many edges; of as many between the same "
            "layers; and of as many at the same nodes."
        )
    figures = {"all": evaluation.plot()}
    return figure_block("faithfulness", "Fact by fact", figures, caption)


def _curves(evaluation: Evaluation) -> Block:
    figures = {
        _RANKED[by]: curve_figure(curve.rows(), _pooled(curve))
        for by, curve in sorted(evaluation.curves.items(), reverse=True)
    }
    caption = (
        "Faithfulness of circuits of growing size. A circuit may do better than the model (above "
        "1) where edges that harm are left out. CMD ranks edges by the size of their score, CPR by "
        "how much they help."
    )
    return figure_block("curve", "Faithfulness over size", figures, caption, choice="Edges ranked")


def _pooled(curve: FaithfulnessCurve) -> dict[str, list[float | None]]:
    lines = {"ratio of means": curve.ratio_of_means, "mean of ratios": curve.mean_of_ratios}
    return {
        name: [None if np.isnan(value) else float(value) for value in values]
        for name, values in lines.items()
    }


def _fact_table(evaluation: Evaluation) -> Block:
    areas = list(AREAS) if evaluation.curves else []
    columns: list[Row] = [
        {"label": "fact", "kind": "text"},
        {"label": "edges", "kind": "number"},
        {"label": "faithfulness", "kind": "number"},
        {"label": "Hit@10", "kind": "number", "digits": 2},
        {"label": "rank", "kind": "number", "digits": 1},
        *({"label": name, "kind": "number", "digits": 2} for name in ("circuit", "model", "empty")),
        *({"label": _HEADS[n], "kind": "number", "digits": 2} for n in evaluation.baselines),
        *({"label": name.upper(), "kind": "number", "digits": 3} for name in areas),
    ]
    names = ("hit_at_10", "target_rank", "metric", "clean_metric", "empty_metric")
    rows = [
        [
            row["fact"],
            row["edges"],
            _judged(row),
            *(row[name] for name in (*names, *evaluation.baselines, *areas)),
        ]
        for row in evaluation.fact_rows
    ]
    caption = (
        f"Circuit, model and empty are the {evaluation.metric} ({evaluation.unit}) of the circuit, "
        "of the whole model and with every edge ablated. “Not known”: model and empty are too "
        "close to be divided by."
    )
    if evaluation.baselines:
        caption += (
            " Random, by layer and by degree: mean faithfulness of random circuits of as many "
            "edges, between the same layers, at the same nodes."
        )
    return table_block("facts", "Facts", columns, rows, caption)


def _judged(row: Row) -> Row:
    if row["is_gated"]:
        return {"v": None, "t": "–", "note": "not known"}
    interval = f"{number(row['low'])} to {number(row['high'])}"
    return {"v": row["faithfulness"], "t": number(row["faithfulness"]), "note": interval}
