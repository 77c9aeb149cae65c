"""A comparison of methods: its table, in three forms, and its page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kcircuits.core.bootstrap import BootstrapInterval, bootstrap_mean
from kcircuits.core.curve import FULL_SPAN, FaithfulnessCurve
from kcircuits.discovery.registry import DEFAULT_METHOD
from kcircuits.lab.comparison import HALF_SIZE, TRAINED_SIZES, Compared
from kcircuits.plots.comparison import CURVES, curve_figure, time_figure
from kcircuits.plots.page import figure_block, render_page, table_block
from kcircuits.plots.theme import number
from kcircuits.study.markdown import table_lines

Row = dict[str, Any]


class Comparison:
    """Methods that were compared on the same facts.

    Args:
        about: Model and facts.
        compared: What each method found.
        subjects: Subject of each fact, drawn whole for intervals over facts.
    """

    def __init__(
        self, about: Mapping[str, Any], compared: Sequence[Compared], subjects: Sequence[str]
    ) -> None:
        self.about, self.compared, self.subjects = about, list(compared), list(subjects)

    @property
    def span(self) -> tuple[float, float]:
        """First and last size of the methods that are trained for sizes."""
        trained = [each.by_size.sizes for each in self.compared if each.by_importance is None]
        first = max((sizes[0] for sizes in trained), default=TRAINED_SIZES[0])
        last = min((sizes[-1] for sizes in trained), default=TRAINED_SIZES[-1])
        return float(first), float(last)

    def rows(self) -> list[Row]:
        """The table, a row for each method, None where a method has no such circuits.

        Columns: ``method``; ``cpr`` and ``cmd``, areas over all sizes, and ``distance``, mean
        |1 - F| over ``span``, each the mean over facts with ``_low`` and ``_high`` of its interval;
        ``cmd_set`` and ``distance_set``, the same of the ratio of means;
        ``size_at_90``, median over facts of the smallest share of edges that reaches F = 0.9;
        ``cpu_seconds_per_fact``; ``half_overlap``, mean over facts.
        """
        return [self._row(each) for each in self.compared]

    def curve_rows(self) -> list[Row]:
        """A row for each method and size: ``faithfulness`` and ``distance``, means over facts."""
        return [
            {
                "method": each.method,
                "size": float(size),
                "n_edges": float(each.by_size.n_edges[:, i].mean()),
                "faithfulness": float(np.nanmean(each.by_size.faithfulness[:, i])),
                "distance": float(np.nanmean(np.abs(1 - each.by_size.faithfulness[:, i]))),
            }
            for each in self.compared
            for i, size in enumerate(each.by_size.sizes)
        ]

    def wins(self, method: str, other: str) -> Row:
        """Two methods fact by fact: mean |1 - F| over the ``TRAINED_SIZES`` that both have.

        Returns:
            ``better``: facts where ``method`` is closer to the model, of ``facts``; ``difference``
            of the means (negative: ``method`` is closer) with its interval over subjects.
        """
        first, second = self._distances(method, other)
        kept = ~np.isnan(first - second)
        interval = bootstrap_mean(first - second, np.array(self.subjects), seed=0)
        return {
            "method": method,
            "other": other,
            "better": int((first < second)[kept].sum()),
            "facts": int(kept.sum()),
            "difference": float(interval.estimate),
            "low": float(interval.low),
            "high": float(interval.high),
        }

    def to_json(self) -> dict[str, Any]:
        """Table and curves as plain values."""
        content = {**self.about, "subjects": self.subjects}
        content |= {"rows": self.rows(), "curves": self.curve_rows()}
        names = [each.method for each in self.compared]
        if DEFAULT_METHOD in names:
            others = [name for name in names if name != DEFAULT_METHOD]
            content["against_default"] = [self.wins(name, DEFAULT_METHOD) for name in others]
        return content

    def markdown(self) -> str:
        """The table in Markdown, intervals included."""
        labels = [column["label"].replace("|", r"\|") for column in _columns(self.span)]
        lines: list[list[str]] = []
        for row in self.rows():
            cells = [f"`{row['method']}`"]
            for name in ("cpr", "cmd", "distance"):
                ends = (number(row[name + end], 3) for end in ("", "_low", "_high"))
                cells.append("–" if row[name] is None else "{} ({} to {})".format(*ends))
            cells.append(number(row["distance_set"], 3))
            size = row["size_at_90"]
            cells.append("–" if size is None else number(100 * size, 2))
            cells += [number(row["cpu_seconds_per_fact"], 1), number(row["half_overlap"], 2)]
            lines.append(cells)
        return "\n".join(table_lines(labels, lines)) + "\n"

    def page(self) -> str:
        """The comparison as one self-contained HTML text."""
        rows, curves = self.rows(), self.curve_rows()
        details = [
            {"label": label, "values": [{"t": str(value)}]} for label, value in self.about.items()
        ]
        by_label = {
            label: curve_figure(curves, column, title) for label, (column, title) in CURVES.items()
        }
        where = _span_text(self.span)
        columns = _columns(self.span)
        blocks = [
            table_block("methods", "Methods", columns, [_cells(row) for row in rows], _CAPTION),
            figure_block(
                "curves",
                "Faithfulness over size",
                by_label,
                "Circuits found on discovery prompts, judged on other prompts of the same facts. "
                "F = 1 is what the full model does, F = 0 what it does with every edge ablated.",
            ),
            figure_block(
                "time",
                "Faithfulness against time",
                {
                    f"{where} of edges": time_figure(
                        rows, "distance", f"mean |1 − F|, {where} of edges"
                    ),
                    "all sizes": time_figure(rows, "cmd", "CMD"),
                },
                "Left and low is better. Bars: 95% bootstrap intervals over subjects.",
            ),
        ]
        return render_page(
            kind="Method comparison", title=str(self.about["model"]), details=details, blocks=blocks
        )

    def _named(self, method: str) -> Compared:
        return next(each for each in self.compared if each.method == method)

    def _row(self, each: Compared) -> Row:
        clusters = np.array(self.subjects)
        n_facts = len(self.subjects)
        areas: Row = {}
        full = positive = None
        if _has(each.by_size, FULL_SPAN):
            full = each.by_size.set_intervals(clusters, seed=0)
        if each.by_importance is not None:
            positive = each.by_importance.set_intervals(clusters, seed=0)
        for name, intervals in (("cpr", positive), ("cmd", full)):
            areas |= _interval(name, intervals[f"{name}_mean_over_facts"] if intervals else None)
        of_facts, of_set = self._distance(each)
        areas |= _interval("distance", of_facts)
        sizes = each.by_size.size_at(0.9)
        return {
            "method": each.method,
            **areas,
            "cmd_set": full and float(full["cmd_ratio_of_means"].estimate),
            "distance_set": of_set,
            "size_at_90": _finite(np.median(sizes[~np.isnan(sizes)])),
            "cpu_seconds_per_fact": each.cpu_seconds / n_facts,
            "half_overlap": float(each.half_overlap.mean()),
        }

    def _distance(self, each: Compared) -> tuple[BootstrapInterval | None, float | None]:
        """Mean |1 - F| over the span, over facts and of the ratio of means."""
        curve, (low, high) = each.by_size, self.span
        if not _has(curve, self.span):
            return None, None
        if low < high:
            of_facts = curve.cmd(self.span) / (high - low)
            of_set = curve.set_areas(self.span)["cmd_ratio_of_means"] / (high - low)
        else:
            at = int(np.argmin(np.abs(curve.sizes - low)))
            of_facts = np.abs(1 - curve.faithfulness[:, at])
            of_set = float(np.abs(1 - curve.ratio_of_means[at]))
        return bootstrap_mean(of_facts, np.array(self.subjects), seed=0), of_set

    def _distances(self, *methods: str) -> list[np.ndarray]:
        """Mean |1 - F| of each fact over the trained sizes that all of the methods have."""
        curves = [self._named(method).by_size for method in methods]
        shared = [
            size
            for size in TRAINED_SIZES
            if all(np.isclose(curve.sizes, size, rtol=1e-9).any() for curve in curves)
        ]
        chosen = [np.isclose(c.sizes[:, None], shared, rtol=1e-9).any(1) for c in curves]
        return [
            np.abs(1 - curve.faithfulness[:, columns]).mean(1)
            for curve, columns in zip(curves, chosen, strict=True)
        ]


def _has(curve: FaithfulnessCurve, span: tuple[float, float]) -> bool:
    return all(np.isclose(curve.sizes, size, rtol=1e-9).any() for size in span)


def _span_text(span: tuple[float, float]) -> str:
    return " to ".join(f"{100 * size:g}" for size in dict.fromkeys(span)) + " %"


def _interval(name: str, interval: BootstrapInterval | None) -> Row:
    ends = {"": "estimate", "_low": "low", "_high": "high"}
    return {
        name + end: None if interval is None else float(getattr(interval, part))
        for end, part in ends.items()
    }


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _columns(span: tuple[float, float]) -> list[Mapping[str, Any]]:
    return [
        {"label": "method", "kind": "text"},
        {"label": "CPR", "kind": "number", "digits": 3},
        {"label": "CMD", "kind": "number", "digits": 3},
        {"label": f"|1 − F|, {_span_text(span)}", "kind": "number", "digits": 3},
        {"label": "of the set", "kind": "number", "digits": 3},
        {"label": "size at F = .9, %", "kind": "number", "digits": 2},
        {"label": "CPU s per fact", "kind": "number", "digits": 1},
        {"label": "two-half overlap", "kind": "number", "digits": 3},
    ]


_CAPTION = (
    "CPR: area under F, circuits by signed importance, higher is better. CMD: area under |1 − F|, "
    "circuits by |score|, lower is better; |1 − F| is its mean over the sizes that trained methods "
    "have, over facts and of the ratio of means of the whole set. Two-half overlap: circuits of "
    f"{100 * HALF_SIZE:g} % of the edges from the even and the odd discovery prompts."
)


def _cells(row: Row) -> list[Any]:
    size = row["size_at_90"]
    return [
        row["method"],
        row["cpr"],
        row["cmd"],
        row["distance"],
        row["distance_set"],
        None if size is None else 100 * size,
        row["cpu_seconds_per_fact"],
        row["half_overlap"],
    ]
