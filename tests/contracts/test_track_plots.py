"""Figures of circuits over epochs: what is drawn is what the rows say."""

import math

import pytest

from kcircuits.plots.fact import presence_figure, score_figure
from kcircuits.plots.track import (
    change_figure,
    layers_figure,
    lifetime_figure,
    settling_figure,
)
from kcircuits.plots.track_shape import shape_figure


def epoch_row(stratum, epoch, value, *, known=3):
    row = {"stratum": stratum, "epoch": epoch, "known": known, "compared": known}
    for name in ("entropy", "depth", "births", "deaths"):
        row |= {name: value, f"{name}_low": value, f"{name}_high": value, f"{name}_noise": 0.1}
    low = None if value is None else value - 1
    row |= {"births_low": low, "births_swapped": 0.5, "deaths_swapped": 0.25}
    return row


def traces(figure, **wanted):
    return [t for t in figure.data if all(getattr(t, k) == v for k, v in wanted.items())]


def test_shape_keeps_epochs_in_order_where_a_stratum_starts_late():
    rows = [epoch_row("<b>x</b>", "ep0", None), epoch_row("<b>x</b>", "ep1", 2.0)]
    rows += [epoch_row("y", "ep0", 4.0), epoch_row("y", "ep1", 3.0)]
    figure = shape_figure(rows, 9.0)
    assert figure.layout.xaxis.categoryarray == ("ep0", "ep1")
    late, whole = (
        next(t for t in figure.data if t.name == name) for name in ("&lt;b&gt;x&lt;/b&gt;", "y")
    )
    assert list(late.x) == ["ep1"]
    assert list(whole.y) == [4.0, 3.0]
    assert "halves of one fact's prompts differ by 0.100" in whole.customdata[0]
    assert figure.layout.shapes[0].y0 == 9.0


def test_births_stand_above_and_deaths_below_beside_swapped_labels():
    rows = [epoch_row("all", "ep0", None), epoch_row("all", "ep1", 4.0)]
    figure = change_figure(rows, "edges")
    births, deaths = traces(figure, type="bar")
    assert (list(births.y), list(deaths.y)) == ([4.0], [-4.0])
    assert (list(births.error_y.array), list(births.error_y.arrayminus)) == ([0.0], [1.0])
    assert (list(deaths.error_y.array), list(deaths.error_y.arrayminus)) == ([0.0], [0.0])
    swapped = traces(figure, type="scatter")
    assert [list(t.y) for t in swapped] == [[0.5], [-0.25]]


def life_row(labels, k, survival):
    return {
        "labels": labels, "k": k, "at_risk": 9, "survival": survival,
        "survival_low": survival - 0.1, "survival_high": survival + 0.1,
    }  # fmt: skip


def test_survival_starts_at_one_with_the_null_dashed():
    rows = [life_row("observed", 1, 0.8), life_row("swapped", 1, 0.4)]
    figure = lifetime_figure(rows, "edges")
    observed, swapped = (t for t in figure.data if t.name)
    assert (list(observed.x), list(observed.y)) == ([0, 1], [1.0, 0.8])
    assert (list(swapped.y), swapped.line.dash) == ([1.0, 0.4], "dash")
    bands = [t for t in figure.data if t.name is None]
    assert len(bands) == 4


def test_layers_are_logarithmic_and_none_is_blank():
    rows = [
        {"epoch": "ep0", "layer": layer, "facts": 2, "ratio": ratio, "ratio_low": ratio,
         "ratio_high": ratio, "ratio_noise": 0.0}
        for layer, ratio in ((-1, 0.01), (0, 0.0), (1, 1.0))
    ]  # fmt: skip
    (heat,) = layers_figure(rows).data
    assert [line[0] for line in heat.z] == [math.log10(0.01), None, 0.0]
    assert list(heat.y) == ["input", "0", "1"]
    assert "the input, ep0: 1.000% of its edges" in heat.customdata[0][0]


def test_settling_has_a_line_per_group():
    rows = [
        {"group": group, "step": step, "facts": 5, "turnover": 0.1 * step, "turnover_low": None,
         "turnover_high": None}
        for group in ("acquired", "never known")
        for step in (0, 1)
    ]  # fmt: skip
    figure = settling_figure(rows)
    assert [(t.name, list(t.y)) for t in figure.data] == [
        ("acquired", [0.0, 0.1]), ("never known", [0.0, 0.1])
    ]  # fmt: skip


def test_presence_tells_there_half_and_gone_apart_by_colour_and_sign():
    rows = [{"edge": "m0->m1", "states": ["there", "half", "gone", None],
             "scores": [1.0, None, 0.5, None]}]  # fmt: skip
    epochs = ["ep0", "ep1", "ep2", "ep3"]
    (heat,) = presence_figure(rows, epochs).data
    assert list(heat.z[0]) == [1.0, 0.5, 0.0, None]
    assert list(heat.text[0]) == ["●", "◐", "", ""]
    (line,) = score_figure(rows, epochs, "score").data
    assert list(line.y) == [1.0, None, 0.5, None]
    assert list(line.marker.symbol) == ["circle", "circle-open", "circle-open", "circle-open"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: shape_figure([epoch_row("all", "ep0", None)]), "No fact is known at any epoch"),
        (lambda: change_figure([epoch_row("all", "ep0", None)], "edges"), "two epochs in a row"),
        (lambda: lifetime_figure([], "edges"), "No edges were born"),
        (lambda: layers_figure([]), "No fact is known"),
        (lambda: settling_figure([]), "No step has a turnover"),
        (lambda: presence_figure([], ["ep0"]), "No edge of this fact"),
        (lambda: score_figure([], ["ep0"], "score"), "No edge of this fact"),
    ],
)
def test_nothing_to_draw_says_so(draw, message):
    assert message in draw().layout.annotations[0].text
