"""The matching report of a benchmark as a page."""

from kcircuits.lab.benchmark.matching import MatchingReport
from kcircuits.plots.matching import distribution_figure, shares_figure
from kcircuits.plots.page import figure_block, render_page, table_block
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
    figures = {
        each.name: distribution_figure(each.name, each.values)  # type: ignore[arg-type]
        if each.kind == "continuous"
        else shares_figure(each.name, each.values)  # type: ignore[arg-type]
        for each in report.quantities
    }
    details = [
        {"label": label, "values": [{"t": str(value)}]}
        for label, value in (
            ("matched", "yes" if report.is_matched else "no"),
            ("leaks", len(report.leaks)),
            ("clean and corrupt of unequal length", len(report.unequal)),
            ("told more or less often than stated", len(report.miscounted)),
        )
    ]
    caption = _CAPTION.format(quantile=report.tolerances.js_quantile)
    blocks = [table_block("groups", "Groups compared", _COLUMNS, rows, caption)]
    if report.leaks:
        blocks.append(
            table_block(
                "leaks",
                "Leaks",
                _LEAK_COLUMNS,
                [[leak.fact, str(leak.document), leak.what] for leak in report.leaks],
                "Documents, by their place in the file, that say what they must not.",
            )
        )
    if figures:
        blocks.append(
            figure_block(
                "quantities",
                "Quantities",
                figures,
                "Groups that are matched lie on each other.",
            )
        )
    return render_page(kind="Matching report", title=title, details=details, blocks=blocks)
