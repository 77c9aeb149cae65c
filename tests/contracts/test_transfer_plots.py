"""Figures of a transfer show every number of its rows, and what it stands against."""

import json
from typing import Any

import pytest

from kcircuits.plots.transfer import lines_figure, loss_figure, strata_figure, transfer_figure

Row = dict[str, Any]
NUMBERS = ("faithfulness", "own", "half", "random", "loss", "half_loss", "loss_both_ways")
EPOCHS = ("ep<0>", "ep1", "ep2")
DIGITS = {"faithfulness": 0.5, "own": 0.7, "half": 0.6, "random": 0.01, "loss": 0.2}


def row(i: int, subjects: int = 12, **head: str) -> Row:
    """A row whose numbers all differ from those of other ``i``."""
    made: Row = {"set": "ratio of means", "facts": 20 + i, "subjects": subjects, "gated": 3}
    made |= {"hit_at_10": 0.5}
    for name in NUMBERS:
        value = DIGITS.get(name, 0.1) + 0.01 * i
        made |= {name: value, f"{name}_low": value - 0.05, f"{name}_high": value + 0.05}
    return made | head


def matrix() -> list[Row]:
    """All pairs; the last one is not of 10 subjects, and the first has no random circuit."""
    rows = [
        row(3 * i + j, **{"from": s, "to": t})
        for i, s in enumerate(EPOCHS)
        for j, t in enumerate(EPOCHS)
    ]
    rows[8]["subjects"] = 9
    return rows


def frames(figure: Any) -> list[tuple[float, float, str]]:
    return [(shape.x0, shape.y0, shape.xref) for shape in figure.layout.shapes]


def test_the_matrix_stands_beside_random_circuits_with_its_diagonal_framed() -> None:
    rows = matrix()
    rows[5]["faithfulness"] = None
    figure = transfer_figure(rows)
    moved, random = figure.data
    assert list(moved.x) == list(moved.y) == ["ep&lt;0&gt;", "ep1", "ep2"]
    for name, heat in (("faithfulness", moved), ("random", random)):
        wanted = [rows[3 * i + j][name] for i in range(3) for j in range(3)]
        assert [value for line in heat.z for value in line] == wanted
    assert moved.text[1][2] == "–"
    assert moved.text[0][1] == "0.51"
    assert frames(figure) == [(i - 0.5, i - 0.5, ref) for ref in ("x", "x2") for i in range(3)]
    for part in ("ep&lt;0&gt; → ep1: faithfulness 0.51 (0.46 to 0.56)", "own 0.71",
                 "half the prompts 0.61", "random 0.02", "21 facts about 12 subjects",
                 "3 not known"):  # fmt: skip
        assert part in moved.customdata[0][1]
    json.dumps(figure.to_plotly_json(), default=list)


def test_no_random_panel_without_random_circuits() -> None:
    rows = [{**one, "random": None, "random_low": None, "random_high": None} for one in matrix()]
    assert len(transfer_figure(rows).data) == 1


@pytest.mark.parametrize("name", ["loss", "loss_both_ways"])
def test_losses_carry_a_star_where_the_interval_excludes_0(name: str) -> None:
    rows = matrix()
    rows[1] |= {name: 0.01, f"{name}_low": -0.1, f"{name}_high": 0.1}
    rows[2] |= {name: -0.3, f"{name}_low": -0.4, f"{name}_high": -0.2}
    figure = loss_figure(rows, name)
    (heat,) = figure.data
    assert heat.text[0][1:] == ["0.01", "−0.30*"]
    assert heat.text[2][2] == f"{rows[8][name]:.2f}"  # of nine subjects
    assert heat.text[1][0].endswith("*")
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax == pytest.approx(-0.3)


def test_lines_have_bands_and_stand_between_own_and_random() -> None:
    rows = [
        row(i + 3 * k, line=line, to=epoch)
        for k, line in enumerate(("before", "after"))
        for i, epoch in enumerate(EPOCHS)
    ]
    figure = lines_figure(rows)
    named = {trace.name: trace for trace in figure.data if trace.name}
    assert list(named) == ["before", "after", "own, of that epoch (facts of ‘after’)",
                           "random (facts of ‘after’)"]  # fmt: skip
    assert list(named["after"].y) == [one["faithfulness"] for one in rows[3:]]
    assert list(named["random (facts of ‘after’)"].y) == [one["random"] for one in rows[3:]]
    bands = [trace for trace in figure.data if trace.name is None]
    assert [list(trace.y) for trace in bands[:2]] == [
        [one[f"faithfulness_{end}"] for one in rows[:3]] for end in ("low", "high")
    ]
    assert "own" not in " ".join(t.name for t in lines_figure(rows, "loss").data if t.name)


def test_strata_stand_above_own_and_random_circuits() -> None:
    rows = [
        row(2 * i + j, **{"from": s, "to": t, "epoch": "ep1"})
        for i, s in enumerate(("high", "low"))
        for j, t in enumerate(("high", "low"))
    ]
    (heat,) = strata_figure(rows).data
    assert list(heat.y) == ["high", "low", "each fact's own", "random"]
    assert list(heat.z[2]) == [rows[0]["own"], rows[3]["own"]]
    assert list(heat.z[3]) == [rows[0]["random"], rows[3]["random"]]
    assert frames(strata_figure(rows)) == [(-0.5, -0.5, "x"), (0.5, 0.5, "x")]


def test_nothing_known_is_said() -> None:
    rows = matrix()
    for one in rows:
        one |= dict.fromkeys(f"{n}{e}" for n in NUMBERS for e in ("", "_low", "_high"))
    for figure in (transfer_figure(rows), loss_figure(rows), strata_figure(rows)):
        assert "knows" in figure.layout.annotations[0].text
