"""Figures of the lenses show their tables' numbers, and foreign text is no markup."""

from typing import Any

import pytest

from kcircuits.plots.lenses import (
    heads_figure,
    lens_figure,
    parts_figure,
    role_map_figure,
    roles_figure,
)

HOSTILE = "<b>ep$1$"
EPOCHS = ("ep0", HOSTILE)


def lens_rows() -> list[dict[str, Any]]:
    return [
        {"epoch": epoch, "stratum": "all", "facts": 4, "depth": depth, "after": after,
         "logprob": -1.0, "low": -2.0, "high": None, "prob": 10.0 ** (depth - 8 + 3 * e),
         "rank": 10.0 ** (2 - depth)}
        for e, epoch in enumerate(EPOCHS)
        for depth, after in enumerate(("embedding", "layer 0", "layer 1"))
    ]  # fmt: skip


def head_rows() -> list[dict[str, Any]]:
    numbers = {"subject": 1.0, "relation": -0.25, "last": 0.5, "rest": 0.0, "difference": 0.1,
               "attention_subject": 0.3, "attention_relation": 0.2}  # fmt: skip
    return [
        {"epoch": "ep0", "head": "a1.h0", "role": "mover", "contribution": 1.25, "low": 1.0,
         "high": 2.0, **numbers},
        {"epoch": "ep0", "head": "a0.h1", "role": None, "contribution": 1.25, "low": None,
         "high": None, **numbers},
    ]  # fmt: skip


def test_lens_goes_by_depth_and_epoch_on_a_logarithmic_scale() -> None:
    heat: Any = lens_figure(lens_rows()).data[0]
    assert [list(line) for line in heat.z] == [[-6, -5], [-6, -4], [-6, -3]]  # floor at 1e-6
    assert list(heat.y) == ["embedding", "layer 0", "layer 1"]
    assert heat.x[1] == "&lt;b&gt;ep&#36;1&#36;"
    assert "rank 10.0" in heat.customdata[1][0]
    assert "–1.00" not in heat.customdata[0][0]
    assert "(−2.00 to –) nats, 4 facts" in heat.customdata[0][0]
    ranks: Any = lens_figure(lens_rows(), quantity="rank").data[0]
    assert [list(line) for line in ranks.z] == [[2, 2], [1, 1], [0, 0]]


def test_parts_stack_up_to_the_total() -> None:
    parts = dict.fromkeys(("subject", "relation", "last", "rest", "mlps"), 1.0)
    parts |= {"embedding": -0.5, "constant": 0.0}
    rows = [{"epoch": epoch, "total": 4.5, **parts} for epoch in EPOCHS]
    *bars, total = parts_figure(rows).data
    assert sum(bar.y[0] for bar in bars) == total.y[0] == 4.5
    assert [bar.name for bar in bars[:2]] == ["heads reading subject", "heads reading relation"]


def test_heads_stack_up_to_their_contribution_with_its_interval() -> None:
    *bars, whole = heads_figure(head_rows()).data
    assert sum(bar.x[0] for bar in bars) == whole.x[0] == 1.25
    assert list(whole.y) == ["a1.h0  mover", "a0.h1  no role"]
    assert whole.error_x.array[0] == pytest.approx(0.75)
    assert whole.error_x.arrayminus[0] == pytest.approx(0.25)
    assert whole.error_x.array[1] is None


def test_role_map_has_a_panel_for_each_role() -> None:
    rows = [
        {"epoch": "ep0", "layer": layer, "head": head, "mover": 0.1 * layer, "relation": 0.2,
         "mixture": 0.3 * head, "contribution": 0.5}
        for layer in range(3)
        for head in range(2)
    ]  # fmt: skip
    mover, relation, mixture = role_map_figure(rows).data
    assert [list(line) for line in mover.z] == [[0, 0], [0.1, 0.1], [0.2, 0.2]]
    assert [list(line) for line in mixture.z] == [[0, 0.3]] * 3
    assert relation.customdata[2][1].startswith("a2.h1: relation in 20% of the facts")


def test_roles_stand_beside_what_replicates_and_chance() -> None:
    rows = [
        {"epoch": epoch, "role": role, "heads": 2.0 + i, "low": 1.0, "high": 5.0,
         "replicated": 1.0 + i, "chance": 0.1}
        for epoch in EPOCHS
        for i, role in enumerate(("mover", "relation", "mixture"))
    ]  # fmt: skip
    data: Any = roles_figure(rows).data
    heads, replicated, chance = data[3:6]  # of relation heads
    assert list(heads.y) == [3.0, 3.0]
    assert list(heads.error_y.array) == [2.0, 2.0]
    assert list(replicated.y) == [2.0, 2.0]
    assert list(chance.y) == [0.1, 0.1]
    assert heads.x[1] == "&lt;b&gt;ep&#36;1&#36;"


@pytest.mark.parametrize(
    "draw", [lens_figure, parts_figure, heads_figure, role_map_figure, roles_figure]
)
def test_nothing_is_said_in_words(draw: Any) -> None:
    assert draw([]).layout.annotations[0].text
