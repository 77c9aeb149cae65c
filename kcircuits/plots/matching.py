"""Groups beside each other in one quantity: distribution functions, or shares of categories."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from kcircuits.plots.theme import DASHES, SERIES, TEMPLATE, as_text

# More bars than these cannot be told apart.
MAX_CATEGORIES = 60
OTHERS = "all others"


def distribution_figure(name: str, values: Mapping[str, Sequence[float]]) -> go.Figure:
    """Share of each group's members up to a value, as steps.

    Args:
        name: Of the quantity, with its unit.
        values: By group.
    """
    figure = go.Figure(layout={"template": TEMPLATE, "height": 360})
    for place, (group, members) in enumerate(values.items()):
        ordered = np.sort(np.asarray(members, dtype=np.float64))
        figure.add_scatter(
            x=ordered.tolist(),
            y=((1 + np.arange(len(ordered))) / len(ordered)).tolist(),
            name=f"{as_text(group)} (n = {len(ordered)})",
            mode="lines",
            line={
                "shape": "hv",
                "color": SERIES[place % len(SERIES)],
                "dash": DASHES[place % len(DASHES)],
            },
            hovertemplate="%{y:.0%} up to %{x}",
        )
    figure.update_xaxes(title_text=as_text(name))
    return figure.update_yaxes(title_text="share of the group", tickformat=".0%", range=[0, 1.02])


def shares_figure(name: str, values: Mapping[str, Sequence[str]]) -> go.Figure:
    """Share of every category in each group, as bars beside each other.

    Of many categories the most frequent are shown, and the rest as one.

    Args:
        name: Of the quantity.
        values: By group.
    """
    values = {group: _fewer(members, values) for group, members in values.items()}
    categories = sorted({value for members in values.values() for value in members})
    figure = go.Figure(layout={"template": TEMPLATE, "height": 360, "barmode": "group"})
    for place, (group, members) in enumerate(values.items()):
        counts = Counter(members)
        figure.add_bar(
            x=[as_text(category) for category in categories],
            y=[counts[category] / len(members) for category in categories],
            name=f"{as_text(group)} (n = {len(members)})",
            marker={"color": SERIES[place % len(SERIES)]},
            hovertemplate="%{x}: %{y:.1%}",
        )
    figure.update_xaxes(title_text=as_text(name), type="category")
    return figure.update_yaxes(title_text="share of the group", tickformat=".0%")


def _fewer(members: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The members, those of rare categories replaced."""
    counts = Counter(value for group in groups.values() for value in group)
    if len(counts) <= MAX_CATEGORIES:
        return list(members)
    frequent = {value for value, _ in counts.most_common(MAX_CATEGORIES - 1)}
    return [value if value in frequent else OTHERS for value in members]
