"""The matching report of a benchmark as a page."""

from typing import Any

from kcircuits.lab.benchmark.matching import MatchingReport
from kcircuits.plots.matching import distribution_figure, shares_figure
from kcircuits.plots.page import Block, figure_block, render_page, table_block
from kcircuits.plots.theme import number

_COLUMNS = (
    {"label": "quantity", "kind": "text"},
    {"label": "groups", "kind": "text"},
    {"label": "members", "kind": "text"},
    {"label": "test", "kind": "text"},
    {"label": "statistic", "kind": "number", "digits": 3},
    {"label": "p, or limit of the floor", "kind": "text"},
    {"label": "matched", "kind": "text"},
)
_LEAK_COLUMNS = (
    {"label": "fact", "kind": "text"},
    {"label": "document", "kind": "text"},
    {"label": "what", "kind": "text"},
)
_CAPTION = (
    "KS: largest difference between the distribution functions of two groups, with the p value of "
    "the two-sample Kolmogorov-Smirnov test. JS: Jensen-Shannon divergence in bits, with what "
    "{quantile:.0%} of groups of the same sizes stay within when their members are dealt anew from "
    "both."
)


def matching_page(report: MatchingReport, title: str) -> str:
    """The report as one self-contained HTML text."""
    blocks = [_groups_block(report)]
    if report.leaks:
        blocks.append(_leaks_block(report))
    if report.quantities:
        blocks.append(_quantities_block(report))
    return render_page(kind="Matching report", title=title, details=_details(report), blocks=blocks)


def _details(report: MatchingReport) -> list[dict[str, Any]]:
    """The lines at the top of the page."""
    found = {
        "matched": "yes" if report.is_matched else "no",
        "leaks": len(report.leaks),
        "clean and corrupt of unequal length": len(report.unequal),
        "told more or less often than stated": len(report.miscounted),
    }
    return [{"label": label, "values": [{"t": str(value)}]} for label, value in found.items()]


def _groups_block(report: MatchingReport) -> Block:
    rows = [
        [
            match.quantity,
            " and ".join(match.groups),
            f"{match.n[0]} and {match.n[1]}",
            match.test,
            match.statistic,
            f"p {number(match.p, 3)}" if match.limit is None else number(match.limit, 3),
            "yes" if match.is_matched else "no",
        ]
        for match in report.matches
    ]
    caption = _CAPTION.format(quantile=report.tolerances.js_quantile)
    return table_block("groups", "Groups compared", _COLUMNS, rows, caption)


def _leaks_block(report: MatchingReport) -> Block:
    return table_block(
        "leaks",
        "Leaks",
        _LEAK_COLUMNS,
        [[leak.fact, str(leak.document), leak.what] for leak in report.leaks],
        "Documents, by their place in the file, that say what they must not.",
    )


def _quantities_block(report: MatchingReport) -> Block:
    figures = {
        each.name: distribution_figure(each.name, each.values)  # type: ignore[arg-type]
        if each.kind == "continuous"
        else shares_figure(each.name, each.values)  # type: ignore[arg-type]
        for each in report.quantities
    }
    return figure_block(
        "quantities", "Quantities", figures, "Groups that are matched lie on each other."
    )
