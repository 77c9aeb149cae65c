"""A study of circuits as a page and as Markdown tables."""

from typing import Any

from kcircuits.plots.cells import interval_cell, interval_text
from kcircuits.plots.circuit_study import dataset_figure, noise_figure, settling_figure
from kcircuits.plots.link import steps_figure
from kcircuits.plots.page import Block, cards_block, figure_block, render_page, table_block
from kcircuits.plots.theme import number
from kcircuits.study.circuits.study import ALL_SEEDS, CircuitStudy
from kcircuits.study.markdown import table_lines

Row = dict[str, Any]
# Of each table: fields and how their columns are called.
_TABLES: dict[str, tuple[str, dict[str, str]]] = {
    "noise": (
        "Difference and noise",
        {
            "against": "against",
            "facts_are": "facts",
            "seed": "seed",
            "steps": "facts x steps",
            "apparent": "1 − Jaccard, same prompts",
            "differs": "1 − k_st",
            "noise": "1 − ceiling",
            "noise_share": "share of noise",
            "turnover": "turnover τ",
        },
    ),
    "settling": (
        "Steps since a fact was first known",
        {
            "group": "facts",
            "step": "step",
            "facts": "n",
            "turnover": "turnover τ",
            "births": "edges born",
            "deaths": "edges died",
            "swapped": "both, labels swapped",
            "fewer": "fewer than in the first step",
        },
    ),
    "depth": (
        "Mean layer of the senders",
        {
            "seed": "seed",
            "group": "facts",
            "facts": "n",
            "change": "change, first known to last",
            "moved": "halves differ by, between the two",
            "noise": "at one of them",
        },
    ),
}


def circuit_study_page(study: CircuitStudy, title: str) -> str:
    """The study as one self-contained HTML text."""
    first = study.runs[0]
    values = {
        "Training seeds": ", ".join(study.seeds),
        "Epochs": f"{first.epochs[0]} to {first.epochs[-1]}",
        "Facts": str(len(first.facts)),
        "Method": first.method,
        "Budget": f"{first.n_edges:,} of {first.topology.n_edges:,} edges",
    }
    details = [{"label": label, "values": [{"t": text}]} for label, text in values.items()]
    blocks = [
        _answers(study),
        _noise(study),
        _dataset(study),
        _settling(study),
        _forgetting(study),
        *(_table(study, name) for name in _TABLES),
    ]
    return render_page(kind="Circuit study", title=title, details=details, blocks=blocks)


def circuit_study_markdown(study: CircuitStudy) -> str:
    """The tables of the study, one after the other."""
    lines: list[str] = []
    for name, (said, columns) in _TABLES.items():
        lines += [f"{said}:", ""]
        lines += table_lines(
            list(columns.values()),
            [[_text(row, field) for field in columns] for row in _rows(study, name)],
        )
        lines += [""]
    found = study.link.rows
    fields = ("stratum", "at_risk", "forgotten", "auroc", "tau_difference", "p", "verdict")
    lines += ["Turnover before forgetting:", ""]
    lines += table_lines(
        ["stratum", "facts x steps at risk", "forgotten next", "AUROC", "difference of τ", "p", ""],
        [[_text(row, field) for field in fields] for row in found],
    )
    return "\n".join(lines) + "\n"


def _answers(study: CircuitStudy) -> Block:
    noise = next(
        row
        for row in study.noise
        if (row["against"], row["facts_are"], row["seed"]) == ("previous", "known", ALL_SEEDS)
    )
    linked = study.link.rows[0]
    cards = [
        {
            "label": "share of noise in what differs from epoch to epoch",
            "value": number(noise["noise_share"]),
            "note": f"95 % interval {_ends(noise, 'noise_share')}; {noise['steps']} facts x steps",
        },
        {
            "label": "turnover from epoch to epoch",
            "value": number(noise["turnover"]),
            "note": f"95 % interval {_ends(noise, 'turnover')}",
        },
        {
            "label": "turnover before forgetting: AUROC",
            "value": number(linked["auroc"]),
            "note": f"{linked['verdict']}: {linked['reason']}",
        },
    ]
    if study.at_rest is not None:
        cards.append(
            {
                "label": "turnover at a rate of 0",
                "value": number(study.at_rest["turnover"]),
                "note": f"{study.at_rest['checkpoints']} checkpoint of "
                f"{study.at_rest['epochs']} epochs",
            }
        )
    return cards_block("answers", "Answers", cards, "Intervals are over entities.")


def _noise(study: CircuitStudy) -> Block:
    figures = {
        f"{name} facts": noise_figure([row for row in study.steps if row["facts_are"] == name])
        for name in ("known", "all")
    }
    caption = (
        "Upper panel: how much circuits of a fact differ from one epoch to the next, on the same "
        "prompts, and between halves of the prompts, corrected for chance; the grey line is what "
        "halves of one epoch differ by. Lower panel: the share of noise in what differs; 1 means "
        "that nothing beyond noise was seen."
    )
    return figure_block("noise", "Difference and noise", figures, caption, choice="Facts")


def _dataset(study: CircuitStudy) -> Block:
    first = study.runs[0].epochs[0]
    rows = [row for row in study.dataset if row["from"] == first]
    figures = {
        f"{n:,} edges": dataset_figure([row for row in rows if row["n_edges"] == n])
        for n in dict.fromkeys(row["n_edges"] for row in rows)
    }
    caption = (
        "One circuit for all facts together, as earlier work has it. Upper panel: Jaccard with the "
        "circuit of the first epoch, on the same prompts. Lower panel: turnover beyond what halves "
        "of the entities differ by at one epoch."
    )
    return figure_block("dataset", "One circuit for all facts", figures, caption, choice="Budget")


def _settling(study: CircuitStudy) -> Block:
    caption = (
        "Facts aligned at the epoch at which they were first known. If circuits settle, turnover "
        "and births fall with the steps since."
    )
    figures = {"all": settling_figure(study.settling)}
    return figure_block("settling", "After a fact is acquired", figures, caption)


def _forgetting(study: CircuitStudy) -> Block:
    caption = (
        "Turnover of a step, of facts that are forgotten in the next step and of those that are "
        "retained."
    )
    figures = {"all": steps_figure(study.link.steps)}
    return figure_block("forgetting", "Before a fact is forgotten", figures, caption)


def _table(study: CircuitStudy, name: str) -> Block:
    said, columns = _TABLES[name]
    rows = _rows(study, name)
    heads = [
        {"label": label, "kind": "text" if isinstance(rows[0][field], str) else "number"}
        for field, label in columns.items()
    ]
    cells = [
        [
            interval_cell(row, field) if isinstance(row[field], float) else row[field]
            for field in columns
        ]
        for row in rows
    ]
    caption = "Below a number its 95 % interval over entities, where it has one."
    return table_block(f"{name}-table", f"{said}, in numbers", heads, cells, caption)


def _rows(study: CircuitStudy, name: str) -> list[Row]:
    return getattr(study, name)


def _text(row: Row, field: str) -> str:
    value = row[field]
    if not isinstance(value, float):
        return "–" if value is None else str(value)
    return interval_text(row, field, 3 if field == "p" else 2)


def _ends(row: Row, name: str) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"
