"""The page of one transfer."""

from typing import Any

from kcircuits.analysis.overlap.jackknife import MIN_ENTITIES
from kcircuits.analysis.transfer.rows import WAYS
from kcircuits.plots.page import Block, cards_block, figure_block, render_page, table_block
from kcircuits.plots.theme import number
from kcircuits.plots.transfer import lines_figure, loss_figure, strata_figure, transfer_figure
from kcircuits.study.transfer.transfer import Transfer

Row = dict[str, Any]
_LOSS = (
    "Loss: faithfulness of each fact's own circuit, found at that epoch, minus that of the moved "
    "one, on the same facts and prompts. 0 is what unchanged weights give; below 0 the moved "
    "circuit is the better one. "
)
_STARS = (
    f"* The 95% interval over subjects ({MIN_ENTITIES} or more) excludes 0, each cell taken by "
    "itself: of 20 cells without any loss one or two have a star."
)


def transfer_page(transfer: Transfer) -> str:
    """The transfer as one self-contained HTML text."""
    blocks = [_summary(transfer), _matrix(transfer), _losses(transfer), _lines(transfer)]
    if transfer.by is not None:
        blocks += _strata(transfer)
    blocks.append(_table(transfer))
    return render_page(
        kind="Circuit transfer", title=transfer.run, details=_details(transfer), blocks=blocks
    )


def _details(transfer: Transfer) -> list[Row]:
    params = ", ".join(f"{key} {value}" for key, value in transfer.params.items())
    share = 100 * transfer.n_edges / transfer.n_total
    values = {
        "Circuits of": ", ".join(transfer.sources),
        "On the weights of": ", ".join(transfer.targets),
        "Method": f"{transfer.method} ({params})" if params else transfer.method,
        "Budget": f"{transfer.n_edges:,} of {transfer.n_total:,} edges ({share:.2g}%) per circuit",
        "Other edges": f"{transfer.ablation} ablation",
        "Metric": f"{transfer.metric} ({transfer.unit})",
        "Facts": str(len(transfer.facts)),
        "Random circuits": f"{transfer.n_draws} beside each circuit, layers matched",
    }
    return [{"label": label, "values": [{"t": text}]} for label, text in values.items()]


def _summary(transfer: Transfer) -> Block:
    rows = [row for row in transfer.rows if row["set"] == WAYS[0] and row["loss"] is not None]
    apart = [row for row in rows if row["from"] != row["to"]]
    enough = [row for row in apart if row["subjects"] >= MIN_ENTITIES]
    cards: list[Row] = []
    for label, chosen in (
        ("largest loss", sorted(enough, key=lambda row: -row["loss"])[:1]),
        ("smallest loss", sorted(enough, key=lambda row: row["loss"])[:1]),
    ):
        cards += [
            {
                "label": f"{label}: {row['from']} → {row['to']}",
                "value": number(row["loss"]),
                "note": f"{number(row['loss_low'])} to {number(row['loss_high'])}; own "
                f"{number(row['own'])}, {row['facts']} facts",
            }
            for row in chosen
        ]
    cards.append(
        {
            "label": "pairs of epochs compared",
            "value": str(len(apart)),
            "note": f"{len(enough)} of them on {MIN_ENTITIES} subjects or more",
        }
    )
    caption = (
        "Each fact's circuit of one epoch runs on the weights of another. It is judged on prompts "
        "that it was not found on, beside the circuit that those weights themselves give. The "
        "extremes of many pairs are the noisiest of them: read them with their intervals."
    )
    return cards_block("summary", "Summary", cards, caption)


def _matrix(transfer: Transfer) -> Block:
    figures = {way: transfer_figure(transfer.rows, way=way) for way in WAYS}
    caption = (
        "Faithfulness of the circuits of one epoch (row) on the weights of another (column): 1 "
        "where the circuit does all that the model does, 0 where no edge is left. Framed: circuits "
        "on their own weights. Facts enter that the model knows at both epochs, so cells are of "
        "different facts: compare along losses, which are of the same facts."
    )
    return figure_block("matrix", "Circuits on other weights", figures, caption, choice="Facts")


def _losses(transfer: Transfer) -> Block:
    figures = {
        f"{label}, {way}": loss_figure(transfer.rows, name, way=way)
        for name, label in (("loss", "loss"), ("loss_both_ways", "both ways"))
        for way in WAYS
    }
    caption = (
        f"{_LOSS}Both ways: the mean of the loss in either direction, in which the noise of the "
        "two epochs' circuits cancels; what is left is how much circuits are made for their own "
        f"weights. {_STARS}"
    )
    return figure_block("loss", "What moving costs", figures, caption)


def _lines(transfer: Transfer) -> Block:
    figures = {
        f"{name}, {way}": lines_figure(transfer.lines, name, way=way)
        for name in ("faithfulness", "loss")
        for way in WAYS
    }
    caption = (
        "Circuits of the first epoch (before), of the first epoch at which each fact is known, of "
        "the last epoch (after) and of the best one, on every epoch's weights; bands are 95% "
        "intervals over subjects. The best epoch is chosen by one half of the subjects and shown "
        "for the other, both ways, averaged over 20 splits."
    )
    return figure_block("lines", "Before, after and best", figures, caption)


def _strata(transfer: Transfer) -> list[Block]:
    tables = {
        epoch: [row for row in transfer.strata if row["epoch"] == epoch]
        for epoch in reversed(transfer.targets)
    }
    smallest = min((row["circuit_entities"] for row in transfer.strata), default=0)
    caption = (
        f"One circuit for each {transfer.by}: the mean of its facts' scores, each of equal weight. "
        "It runs on the facts of every stratum at the same epoch; scores of the fact's own subject "
        f"are left out of every circuit that it is judged by. The smallest is of {smallest} "
        "subjects. Ratio of means."
    )
    return [
        figure_block(
            "strata",
            f"Between strata ({transfer.by})",
            {epoch: strata_figure(rows) for epoch, rows in tables.items()},
            caption,
            choice="Epoch",
        ),
        figure_block(
            "strata-loss",
            "What a stratum's circuit lacks",
            {epoch: loss_figure(rows, unit="on facts of") for epoch, rows in tables.items()},
            f"Faithfulness of each fact's own circuit minus that of the stratum's. {_STARS}",
            choice="Epoch",
        ),
    ]


def _table(transfer: Transfer) -> Block:
    columns = [
        {"label": "circuits of", "kind": "text"},
        {"label": "on", "kind": "text"},
        {"label": "facts", "kind": "number"},
        {"label": "not known", "kind": "number"},
        *(
            {"label": label, "kind": "number", "digits": 2}
            for label in ("faithfulness", "own", "half", "random", "loss", "both ways")
        ),
        {"label": "Hit@1", "kind": "number", "digits": 2},
        {"label": "Hit@10", "kind": "number", "digits": 2},
        {"label": "rank", "kind": "number", "digits": 1},
    ]
    rows = [
        [
            row["from"], row["to"], row["facts"], row["gated"],
            *(_cell(row, n) for n in ("faithfulness", "own", "half", "random", "loss",
                                      "loss_both_ways")),
            row["hit_at_1"], row["hit_at_10"], row["target_rank"],
        ]
        for row in transfer.rows
        if row["set"] == WAYS[0]
    ]  # fmt: skip
    caption = (
        "Ratio of means with 95% intervals over subjects. Half: circuits found at that epoch on "
        "half of the prompts. Hit@k: share of prompts whose answer is among the circuit's k best; "
        "rank: of the answer, median over facts."
    )
    return table_block("pairs", "All pairs", columns, rows, caption)


def _cell(row: Row, name: str) -> Any:
    value = row[name]
    if value is None:
        return None
    note = f"{number(row[f'{name}_low'])} to {number(row[f'{name}_high'])}"
    return {"v": value, "t": number(value), "note": note}
