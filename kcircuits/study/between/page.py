"""The pages of overlaps between facts, and between runs or methods."""

from collections.abc import Mapping, Sequence
from typing import Any

from kcircuits.plots.between import facts_figure, facts_table, runs_figure, runs_table
from kcircuits.plots.cells import interval_cell, verdict_cell
from kcircuits.plots.page import Block, cards_block, figure_block, render_page, table_block
from kcircuits.plots.theme import number
from kcircuits.study.between.facts import BetweenFacts
from kcircuits.study.between.runs import BetweenRuns
from kcircuits.study.between.words import CLUSTERS, CONTRASTS, VERDICTS, group_name

Row = dict[str, Any]


def facts_page(found: BetweenFacts) -> str:
    """Overlap between the facts of an epoch as one self-contained HTML text."""
    document = found.to_json()
    blocks = [
        _facts_summary(found, document),
        _groups_table(found),
        figure_block(
            "facts",
            "Every fact with every other",
            {"all": facts_figure(facts_table(document), by=found.by)},
            "What the circuits of two facts share: 1 as much as the halves of one fact's prompts, "
            f"0 what chance gives. Facts with like circuits stand side by side; the strip shows "
            f"the {found.by} of each.",
        ),
        _fact_table(found),
    ]
    return render_page(
        kind="Circuits of different facts",
        title=f"{found.run} at {found.epoch}",
        details=_facts_details(found, document),
        blocks=blocks,
    )


def runs_page(found: BetweenRuns) -> str:
    """Overlap between two runs or methods as one self-contained HTML text."""
    document = found.to_json()
    blocks = [
        figure_block(
            "overlap",
            "Overlap over epochs",
            {"all": runs_figure(runs_table(document))},
            "Above: how alike the circuits of the same fact are in the two (line), between chance "
            "(dotted) and the noise ceiling (bars), which is what no difference would give. "
            "In the middle: turnover, the share of that distance which is missing. Below: how much "
            "more a fact shares with itself on the other side than with other facts of its "
            "relation. Bars are 95% intervals over entities.",
        ),
        _runs_table(found),
        _own_table(found),
    ]
    pair = [{"t": name} for name in found.names]
    values = {
        "Methods": " and ".join(dict.fromkeys(found.methods)),
        "Budget": f"{found.n_edges:,} of {found.topology.n_edges:,} edges per circuit",
        "Compared by": f"{found.level}s",
        "Prompts": f"{found.n_prompts} prompts or folds per fact, in halves",
    }
    details = [{"label": label, "values": [{"t": text}]} for label, text in values.items()]
    return render_page(
        kind="Circuits in two runs" if found.kind == "runs" else "Circuits by two methods",
        title=" and ".join(found.names),
        details=[{"label": "Compared", "values": pair}, *details],
        blocks=blocks,
    )


def _facts_details(found: BetweenFacts, document: Mapping[str, Any]) -> list[Row]:
    left_out = "; ".join(f"{len(ids)} {reason}" for reason, ids in found.left_out.items())
    values = {
        "Method": found.provenance.method,
        "Budget": f"{found.n_edges:,} of {found.topology.n_edges:,} edges per circuit",
        "Compared by": f"{found.level}s",
        "Prompts": f"{found.n_prompts} {document['prompts_are']} per fact, in halves",
        "Facts": f"{len(found.halved)} compared" + (f" (left out: {left_out})" * bool(left_out)),
    }
    if found.n_meeting:
        values["Pairs left out"] = f"{found.n_meeting}: their halves would meet their own templates"
    mark = None if found.checkpoint.is_verified else "unverified"
    note = (found.checkpoint.content_hash or "")[:7]
    epoch = {"t": found.epoch, "note": note, "mark": mark}
    rows = [{"label": label, "values": [{"t": text}]} for label, text in values.items()]
    return [{"label": "Epoch", "values": [epoch]}, *rows]


def _facts_summary(found: BetweenFacts, document: Mapping[str, Any]) -> Block:
    result, clusters = document["contrast"], document["clusters"]
    low, high = number(result["difference_low"]), number(result["difference_high"])
    cards = [
        {
            "label": f"more shared within one {found.by} than between",
            "value": number(result["difference"]),
            "note": f"{CONTRASTS[result['verdict']]}: {low} to {high}; {result['reason']}",
        },
        {
            "label": "groups of facts by their circuits",
            "value": str(clusters["number"] or "–"),
            "note": f"{CLUSTERS[clusters['verdict']]}: {clusters['reason']}",
        },
    ]
    cards += [
        {
            "label": f"groups and {row['label']}",
            "value": number(row["rand"]),
            "note": f"adjusted Rand index: 1 the same, 0 as by chance; p = {number(row['p'], 3)}",
        }
        for row in clusters["agreement"]
        if row["rand"] is not None
    ]
    return cards_block("summary", "Summary", cards, "How alike circuits of different facts are.")


def _groups_table(found: BetweenFacts) -> Block:
    labels = ("Jaccard", "ceiling", "chance", "chance by layers")
    columns = [
        {"label": "pairs of facts of", "kind": "text"},
        {"label": "pairs", "kind": "number"},
        *({"label": label, "kind": "number", "digits": 3} for label in labels),
        {"label": "shared", "kind": "number", "digits": 2},
        {"label": "shared beyond layers", "kind": "number", "digits": 2},
    ]
    names = ("pairs", "jaccard", "ceiling", "chance", "chance_matched")
    rows = [
        [
            group_name(row, found.by),
            *(row[name] for name in names),
            interval_cell(row, "shared"),
            row["shared_matched"],
        ]
        for row in found.rows
        if row["pairs"]
    ]
    caption = (
        "Jaccard of half the prompts of one fact with the other half of the other's, from the mean "
        "overlap of the pairs; the ceiling is what one circuit for both would give. Shared: the "
        "share of that distance from chance. “By layers” keeps how many edges a circuit has "
        "between each two layers."
    )
    return table_block("groups", "Pairs of facts", columns, rows, caption)


def _fact_table(found: BetweenFacts) -> Block:
    columns: list[Mapping[str, Any]] = [
        {"label": "fact", "kind": "fact"},
        {"label": "entity", "kind": "text"},
        {"label": found.by, "kind": "text"},
        {"label": "group", "kind": "number"},
        {"label": "own overlap", "kind": "number", "digits": 2},
        {"label": "nearest", "kind": "fact"},
        {"label": "shared with it", "kind": "number", "digits": 2},
    ]
    names = ("fact", "entity", "stratum", "cluster", "own", "nearest", "nearest_shared")
    rows = [[row[name] for name in names] for row in found.fact_rows]
    caption = (
        "Own overlap: what the halves of a fact's own prompts share beyond chance. The nearest "
        "fact is the best of many noisy numbers and shares less in truth."
    )
    return table_block("fact-rows", "Facts", columns, rows, caption)


def _runs_table(found: BetweenRuns) -> Block:
    columns = [
        {"label": "epoch", "kind": "text"},
        {"label": "stratum", "kind": "text"},
        {"label": "facts", "kind": "number"},
        *({"label": label, "kind": "number", "digits": 1} for label in ("first", "second", "both")),
        *(
            {"label": label, "kind": "number", "digits": 3}
            for label in ("Jaccard", "ceiling", "chance")
        ),
        {"label": "turnover τ", "kind": "number", "digits": 2},
        {"label": "verdict", "kind": "verdict"},
    ]
    names = ("facts", "lost", "gained", "kept", "jaccard", "ceiling", "chance")
    rows = [
        [
            row["epoch"],
            row["stratum"],
            *(row[name] for name in names),
            interval_cell(row, "turnover"),
            verdict_cell(row, VERDICTS),
        ]
        for row in found.rows
    ]
    caption = (
        f"{found.level.capitalize()}s per fact that replicate in the first alone, in the second "
        "alone and in both; facts known in both. “Cannot tell” is not “no difference”."
    )
    return table_block("rows", "By epoch and stratum", columns, rows, caption)


def _own_table(found: BetweenRuns) -> Block:
    columns: Sequence[Mapping[str, Any]] = (
        {"label": "epoch", "kind": "text"},
        {"label": "stratum", "kind": "text"},
        {"label": "facts", "kind": "number"},
        {"label": "with itself", "kind": "number", "digits": 2},
        {"label": "with others", "kind": "number", "digits": 2},
        {"label": "difference", "kind": "number", "digits": 2},
        {"label": "p", "kind": "number", "digits": 3},
    )
    rows = [
        [
            *(row[name] for name in ("epoch", "stratum", "own_facts", "own", "others")),
            interval_cell(row, "own_more"),
            row["own_p"],
        ]
        for row in found.rows
    ]
    caption = (
        "What a fact shares with itself on the other side, and with other facts of its relation; "
        "p by exchanging the facts of each relation on one side."
    )
    return table_block("own", "A fact with itself and with others", columns, rows, caption)
