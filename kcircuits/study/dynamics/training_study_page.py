"""A study of training strategies as a page and as Markdown tables."""

from kcircuits.analysis.dynamics.measures import MEASURES
from kcircuits.plots.dynamics import curves_figure
from kcircuits.plots.page import Block, figure_block, render_page, table_block
from kcircuits.plots.theme import number
from kcircuits.plots.training_study import dots_figure
from kcircuits.study.dynamics.training_study import Row, TrainingStudy
from kcircuits.study.markdown import table_lines

# Measures that the Markdown table shows, with their heads.
_SHOWN = {
    "loss_fall": "fall of the loss",
    "known_last": "known at the end",
    "diverging": "diverging steps",
    "dropped_probes": "probes that drop",
    "forgotten": "forgotten once",
    "forgetting_rate": "forgotten per epoch",
    "controls_lost": "controls lost",
    "ood_first": "OOD after 1 epoch",
    "ood_last": "OOD at the end",
}
_COLUMNS = (
    {"label": "strategy", "kind": "text"},
    {"label": "measure", "kind": "text"},
    {"label": "mean", "kind": "number", "digits": 3},
    {"label": "95 % interval", "kind": "text"},
    {"label": "minus reference", "kind": "number", "digits": 3},
    {"label": "its interval", "kind": "text"},
)


def training_study_page(study: TrainingStudy, title: str) -> str:
    """The study as one self-contained HTML text."""
    seeds = sorted({seed for runs in study.by_strategy.values() for seed in runs})
    details = [
        {"label": "Strategies", "values": [{"t": name} for name in study.by_strategy]},
        {"label": "Training seeds", "values": [{"t": ", ".join(map(str, seeds))}]},
        {"label": "Facts", "values": [{"t": str(len(study.series[0].fact_ids))}]},
        {"label": "Compared with", "values": [{"t": study.reference}]},
    ]
    blocks = [_curves(study), _measures(study), _strata(study), _rules(study), _table(study)]
    return render_page(kind="Training study", title=title, details=details, blocks=blocks)


def study_markdown(study: TrainingStudy) -> str:
    """The measures of every strategy, and what each stopping rule costs, as two tables."""
    measures = {(row["strategy"], row["measure"]): row for row in study.measures}
    lines = table_lines(
        ["strategy", *_SHOWN.values()],
        [
            [f"`{strategy}`", *(_cell(measures[strategy, name]) for name in _SHOWN)]
            for strategy in study.by_strategy
        ],
    )
    rules = {(row["strategy"], row["rule"]): row for row in study.rules}
    names = list(dict.fromkeys(rule for _, rule in rules))
    lines += ["", "Cost of each stopping rule (knowledge below the best epoch in hindsight):", ""]
    lines += table_lines(
        ["rule", *(f"`{strategy}`" for strategy in study.by_strategy)],
        [
            [f"`{rule}`", *(_cell(rules[strategy, rule], "cost") for strategy in study.by_strategy)]
            for rule in names
        ],
    )
    return "\n".join(lines) + "\n"


def _cell(row: Row, name: str = "mean") -> str:
    value = row[name]
    ends = ("low", "high") if name == "mean" else (f"{name}_low", f"{name}_high")
    if value is None:
        return "–"
    text = number(value, 2)
    return (
        text if row[ends[0]] is None else f"{text} ({' to '.join(number(row[e], 2) for e in ends)})"
    )


def _curves(study: TrainingStudy) -> Block:
    lines: dict[str, list[Row]] = {}
    for row in study.epochs:
        lines.setdefault(row["strategy"], []).append(
            {
                "epoch": row["epoch"],
                "knowledge": row["known"],
                "low": row["known_low"],
                "high": row["known_high"],
                "loss": row["loss"],
                "ood": row["ood"],
            }
        )
    figures = {"trained facts": curves_figure(lines)}
    figures |= {split: curves_figure(_of_split(study, split)) for split in _splits(study)}
    caption = (
        "Means over training seeds. Trained facts: bands are 95 % t intervals over seeds. Other "
        "panels: facts of a split, each averaged over seeds, bands 95 % bootstrap over entities."
    )
    return figure_block(
        "curves", "Knowledge, loss and other skills", figures, caption, choice="Facts"
    )


def _splits(study: TrainingStudy) -> list[str]:
    return list(dict.fromkeys(row["split"] for row in study.strata))


def _of_split(study: TrainingStudy, split: str) -> dict[str, list[Row]]:
    lines: dict[str, list[Row]] = {}
    for row in study.strata:
        if row["split"] == split and row["stratum"] == "all":
            lines.setdefault(row["strategy"], []).append(
                {"epoch": row["epoch"], "knowledge": row["mean"], "low": row["low"]}
                | {"high": row["high"], "loss": None, "ood": None}
            )
    return lines


def _measures(study: TrainingStudy) -> Block:
    figures = {}
    for name, (said, _) in MEASURES.items():
        rows = [row for row in study.measures if row["measure"] == name]
        dots = [{**row, "name": row["strategy"], "group": "strategy"} for row in rows]
        figures[said] = dots_figure(dots, said)
    caption = "Means over training seeds with 95 % t intervals."
    return figure_block("measures", "Strategies", figures, caption, choice="Measure")


def _strata(study: TrainingStudy) -> Block:
    """Knowledge at the last epoch by prior knowledge and by frequency."""
    figures = {}
    for stratum in dict.fromkeys(row["stratum"] for row in study.strata):
        last = {row["strategy"]: row["epoch"] for row in study.strata}
        rows = [
            {**row, "name": f"{row['split']}, {row['value']}", "group": row["strategy"]}
            for row in study.strata
            if row["stratum"] == stratum and row["epoch"] == last[row["strategy"]]
        ]
        figures["by split" if stratum == "all" else f"by {stratum}"] = dots_figure(
            rows, "facts known at the end (share)"
        )
    caption = "Facts averaged over training seeds; 95 % bootstrap intervals over entities."
    return figure_block("strata", "Which facts", figures, caption, choice="Strata")


def _rules(study: TrainingStudy) -> Block:
    said = {
        "cost": "knowledge below the best epoch in hindsight",
        "spent": "epochs trained",
        "ood": "OOD accuracy at the epoch kept",
    }
    figures = {}
    for name, axis in said.items():
        rows = [
            {"name": row["rule"], "group": row["strategy"], "mean": row[name]}
            | {"low": row[f"{name}_low"], "high": row[f"{name}_high"]}
            for row in study.rules
        ]
        figures[axis] = dots_figure(rows, axis, zero=name == "cost")
    caption = (
        "Each rule chooses on half of the entities and is scored on the other. Means over training "
        "seeds with 95 % t intervals."
    )
    return figure_block("rules", "Stopping rules", figures, caption, choice="Measure")


def _table(study: TrainingStudy) -> Block:
    rows = [
        [
            row["strategy"],
            MEASURES[row["measure"]][0],
            row["mean"],
            _interval(row, "low", "high"),
            row["difference"] if row["strategy"] != study.reference else None,
            _interval(row, "difference_low", "difference_high")
            if row["strategy"] != study.reference
            else "",
        ]
        for row in study.measures
    ]
    caption = (
        f"Differences are paired by training seed with {study.reference}. An interval that leaves "
        "out 0 is one of many on this page."
    )
    return table_block("table", "All measures", _COLUMNS, rows, caption)


def _interval(row: Row, low: str, high: str) -> str:
    if row[low] is None:
        return "–"
    return f"{number(row[low], 3)} to {number(row[high], 3)}"
