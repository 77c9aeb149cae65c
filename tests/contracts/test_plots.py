"""Tables and figures: the figure shows the table's numbers, foreign text is no markup."""

import json
import math
import re
from importlib.resources import files

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from kcircuits.core.score_meaning import GATES, ScoreMeaning
from kcircuits.core.topology import Topology
from kcircuits.plots.circuit import (
    KINDS_BY_SHARE,
    circuit_figure,
    circuit_table,
    kinds_of,
    node_positions,
)
from kcircuits.plots.diff import diff_figure, diff_table, edge_figure, edge_table
from kcircuits.plots.faithfulness import curve_figure, faithfulness_figure
from kcircuits.plots.knowledge import knowledge_figure, knowledge_table, loss_table
from kcircuits.plots.overlap import (
    overlap_figure,
    overlap_table,
    steps_figure,
    turnover_figure,
)
from kcircuits.plots.page import beside_block, circuit_block, figure_block, render_page
from kcircuits.plots.theme import GAINED, HELPS, HURTS, LOST, OWN, SHARED, as_text

TOPOLOGY = Topology(n_layers=2, n_heads=2)
LOGITS = ScoreMeaning(unit="logits", helps="below 0")
NATS = ScoreMeaning(unit="nats", helps="above 0")
HOSTILE = "</script><img src=x onerror=alert(1)><b>&lt;\u2028"


def make_table(scores: dict[str, float], **options) -> list[dict]:
    candidates = np.array(
        [u * TOPOLOGY.n_backward + v for u, v in map(TOPOLOGY.edge_index, scores)]
    )
    values = np.array(list(scores.values()))
    return circuit_table(candidates, values, TOPOLOGY, fact="paris", epoch="ep1", **options)


SCORES = {
    "input->a0.h1<q>": -2.0,
    "a0.h1->m1": 0.75,
    "m1->logits": -0.3,
    "m0->a1.h0<v>": 0.01,
    "m0->m1": 0,
}


def diff_document() -> dict:
    row = {"facts": 12, "gained": 3.0, "lost": 2.0, "kept": 9.0, "chance": 0.01}
    return {
        "rows": [
            {
                **row,
                "stratum": HOSTILE,
                "jaccard": 0.3,
                "ceiling": 0.4,
                "turnover": 0.2,
                "turnover_low": 0.1,
                "turnover_high": 0.35,
                "verdict": "changed",
            },
            {
                **row,
                "stratum": "few",
                "jaccard": 0.1,
                "ceiling": None,
                "turnover": None,
                "turnover_low": None,
                "turnover_high": None,
                "verdict": "undetermined",
            },
        ],
        "edges": [
            {"fact": "f1", "edge": "input->m0", "from": -0.6, "to": 0.0, "status": "lost"},
            {"fact": "f1", "edge": "m0->logits", "from": 0.1, "to": -0.9, "status": "gained"},
            {"fact": "f2", "edge": "m0->m1", "from": 0.2, "to": 0.3, "status": "kept"},
        ],
    }


def pair_rows() -> list[dict]:
    """Rows of an overlap of two epochs, of which no fact is known at the second alone."""
    empty = dict.fromkeys(("jaccard_low", "jaccard_high", "turnover_low", "turnover_high"))
    row = {**empty, "chance": 0.01, "facts": 7, "stratum": "all"}
    return [
        {**row, "from": "ep0", "to": "ep0", "jaccard": 0.5, "ceiling": 0.5, "turnover": 0.0},
        {**row, "from": "ep0", "to": HOSTILE, "jaccard": 0.2, "jaccard_low": 0.1,
         "jaccard_high": 0.3, "ceiling": 0.45, "turnover": 0.6, "turnover_low": -0.1,
         "turnover_high": 0.8},
        {**row, "from": HOSTILE, "to": HOSTILE, "facts": 0, "jaccard": None, "ceiling": None,
         "turnover": None},
    ]  # fmt: skip


def step_rows() -> list[dict]:
    """Rows of steps: one stratum that changed and then could not be told, one without numbers."""
    row = {"jaccard": 0.2, "ceiling": 0.4, "chance": 0.01, "facts": 12}
    return [
        {**row, "from": "ep0", "to": "ep2", "stratum": "all", "turnover": 0.3, "turnover_low": 0.1,
         "turnover_high": 0.4, "verdict": "changed"},
        {**row, "from": "ep1", "to": "ep2", "stratum": "all", "turnover": 0.1,
         "turnover_low": None, "turnover_high": None, "verdict": "undetermined"},
        {**row, "from": "ep0", "to": "ep2", "stratum": HOSTILE, "turnover": None,
         "turnover_low": None, "turnover_high": None, "verdict": "undetermined"},
    ]  # fmt: skip


def all_figures():
    probes = [
        {"epoch": e, "fact": f, "known": e > 0 and f == "a", "prob": 0.25 * e}
        for e in (0, 1)
        for f in ("a", "b")
    ]
    document = diff_document()
    return {
        "circuit": circuit_figure(make_table(SCORES), TOPOLOGY, kinds_of(LOGITS)),
        "overlap": overlap_figure(overlap_table(pair_rows())),
        "turnover": turnover_figure(overlap_table(pair_rows())),
        "steps": steps_figure(step_rows(), against="last"),
        "knowledge": knowledge_figure(
            knowledge_table(probes, {"a": "new", "b": HOSTILE}),
            loss_table([{"epoch": 1, "loss": 2.0}]),
        ),
        "diff": diff_figure(diff_table(document)),
        "faithfulness": faithfulness_figure(fact_rows(), {"size": "random", "degree": "by degree"}),
        "curve": curve_figure(curve_rows(), {"ratio of means": [0.0, 0.4, 1.0]}),
        "edges": edge_figure(edge_table(document), start="ep0", stop=HOSTILE, meaning=LOGITS),
    }


def test_circuit_table_ranks_by_size_of_score():
    table = make_table(SCORES, n_edges=3)
    assert [row["edge"] for row in table] == ["input->a0.h1<q>", "a0.h1->m1", "m1->logits"]
    assert [row["rank"] for row in table] == [1, 2, 3]
    assert [row["score"] for row in table] == [-2.0, 0.75, -0.3]


def test_circuit_table_leaves_out_edges_that_do_nothing():
    assert "m0->m1" not in [row["edge"] for row in make_table(SCORES)]


def test_circuit_figure_colours_edges_by_sign_and_strength():
    table = make_table(SCORES)
    figure = circuit_figure(table, TOPOLOGY, kinds_of(LOGITS))
    lines = [trace for trace in figure.data if trace.mode == "lines" and any(trace.x)]
    assert [(t.line.color, t.line.width) for t in lines] == [
        (HELPS, 3.4),
        (HELPS, 1.4),
        (HURTS, 2.2),
        (HURTS, 0.8),
    ]
    hover = figure.data[-1]
    assert [entry[1] for entry in hover.customdata] == [row["score"] for row in table]
    assert hover.customdata[0][0] == "input-&gt;a0.h1&lt;q&gt;"


def legends(figure) -> dict[str, str]:
    """Colour of each entry of the legend."""
    return {trace.name: trace.line.color for trace in figure.data if trace.showlegend}


def test_legends_say_on_which_side_of_0_an_edge_helps():
    """Of a metric that is better when lower, an edge whose ablation raises it helps."""
    for meaning, helping, hurting in ((LOGITS, "below", "above"), (NATS, "above", "below")):
        figure = circuit_figure(make_table(SCORES), TOPOLOGY, kinds_of(meaning))
        assert legends(figure) == {
            f"helps the answer (score {helping} 0)": HELPS,
            f"hurts it (score {hurting} 0)": HURTS,
        }
    figure = circuit_figure(make_table({"m0->m1": 2.0}), TOPOLOGY, kinds_of(NATS))
    (arc,) = (trace for trace in figure.data if trace.mode == "lines" and any(trace.x))
    assert arc.line.color == HELPS


def test_gates_are_probabilities_without_a_sign():
    gates = {"input->m0": 0.9, "m0->m1": 0.4}
    figure = circuit_figure(make_table(gates), TOPOLOGY, kinds_of(GATES), GATES.name)
    (entry,) = legends(figure)
    assert "probability that the edge is kept" in entry
    assert "helps" not in json.dumps(figure.to_plotly_json(), default=str)
    arcs = [trace for trace in figure.data if trace.mode == "lines" and any(trace.x)]
    assert {trace.line.color for trace in arcs} == {OWN}
    assert "probability that the edge is kept %{customdata[1]" in figure.data[-1].hovertemplate
    edges = edge_figure(edge_table(diff_document()), start="a", stop="b", meaning=GATES)
    assert edges.layout.xaxis.title.text == "probability that the edge is kept (mean of its gate)"
    assert "probability that the edge is kept 0.100 at a" in edges.data[0].customdata[0]


def test_circuits_beside_each_other_are_coloured_by_what_they_share():
    edges = {name: TOPOLOGY.edge_index(name) for name in SCORES}
    flat = {name: u * TOPOLOGY.n_backward + v for name, (u, v) in edges.items()}
    table = make_table(SCORES, shared={flat["a0.h1->m1"], flat["m1->logits"]})
    assert [(row["edge"], row["kind"]) for row in table] == [
        ("input->a0.h1<q>", 0),
        ("a0.h1->m1", 1),
        ("m1->logits", 1),
        ("m0->a1.h0<v>", 0),
    ]
    figure = circuit_figure(table, TOPOLOGY, KINDS_BY_SHARE)
    arcs = [trace for trace in figure.data if trace.mode == "lines" and any(trace.x)]
    assert [(trace.line.color, trace.line.width) for trace in arcs] == [
        (OWN, 3.4),
        (OWN, 0.8),
        (SHARED, 2.2),
        (SHARED, 1.4),
    ]


def test_circuit_nodes_stand_by_layer_and_head():
    senders, receivers = node_positions(TOPOLOGY)
    assert senders[TOPOLOGY.forward_names.index("a1.h0")] == (1, 0)
    assert senders[TOPOLOGY.forward_names.index("m0")] == (0, 2)
    assert receivers[TOPOLOGY.backward_names.index("a1.h1<k>")] == (1, 1)
    assert len(senders) == TOPOLOGY.n_forward
    assert len(receivers) == TOPOLOGY.n_backward


def test_overlap_shows_ceilings_on_the_diagonal():
    heat = all_figures()["overlap"].data[0]
    assert [list(row) for row in heat.z] == [[0.5, 0.2], [0.2, None]]
    assert heat.customdata[0][0].startswith("ep0: noise ceiling 0.500")
    for line, column in ((0, 1), (1, 0)):  # the other half of the matrix says the same
        text = heat.customdata[line][column]
        assert "Jaccard 0.200 (0.100 to 0.300), ceiling 0.450" in text
        assert "τ 0.60 (−0.10 to 0.80)" in text
        assert "7 facts" in text
    assert "0.010" in heat.colorbar.title.text
    frames = [(shape.x0, shape.y0) for shape in all_figures()["overlap"].layout.shapes]
    assert frames == [(-0.5, -0.5), (0.5, 0.5)]


def test_turnover_has_a_heat_map_of_its_own():
    heat = all_figures()["turnover"].data[0]
    assert [list(row) for row in heat.z] == [[0.0, 0.6], [0.6, None]]
    assert (heat.zmin, heat.zmax) == (0.0, 0.6)


def test_steps_show_turnover_with_interval_and_fill_what_changed():
    lines = all_figures()["steps"].data
    assert [list(line.x) for line in lines] == [["ep0", "ep1"], ["ep0"]]  # against the last
    assert list(lines[0].y) == [0.3, 0.1]
    assert lines[0].error_y.array[0] == pytest.approx(0.1)
    assert lines[0].error_y.arrayminus[0] == pytest.approx(0.2)
    assert lines[0].error_y.array[1] is None
    assert list(lines[0].marker.symbol) == ["circle", "circle-open"]
    assert "changed" in lines[0].customdata[0]
    assert lines[0].line.dash != lines[1].line.dash


def test_knowledge_counts_facts_by_more_than_half_of_their_probes():
    def rows(n_known):
        return [
            {"epoch": 2, "fact": "a", "known": i < n_known, "prob": 0.1 * i} for i in range(4)
        ] + [{"epoch": 2, "fact": "other", "known": True, "prob": 1.0}]

    assert knowledge_table(rows(2), {"a": "s"})[0]["known"] == 0.0
    table = knowledge_table(rows(3), {"a": "s"})
    assert table == [
        {"epoch": 2, "stratum": "s", "facts": 1, "known": 1.0, "prob": pytest.approx(0.15)}
    ]


def test_loss_is_the_mean_of_an_epoch():
    rows = [{"epoch": 1, "loss": 2.0}, {"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": None}]
    assert loss_table(rows) == [{"epoch": 1, "loss": 1.5}]


def test_edges_are_sorted_by_change_and_coloured_by_status():
    table = edge_table(diff_document())
    assert [row["edge"] for row in table] == ["m0->logits", "input->m0", "m0->m1"]
    colours = {t.name: t.line.color for t in all_figures()["edges"].data}
    assert (colours["gained"], colours["lost"]) == (GAINED, LOST)


def test_diff_figure_shows_turnover_with_its_interval():
    turnover = all_figures()["diff"].data[-1]
    assert list(turnover.x) == [0.2, None]
    assert turnover.error_x.array[0] == pytest.approx(0.15)
    assert turnover.error_x.arrayminus[0] == pytest.approx(0.1)
    assert turnover.customdata[1].endswith("cannot tell")


def fact_rows() -> list[dict]:
    numbers = {"low": 0.5, "high": 0.9, "size": 0.0, "degree": 0.3}
    return [
        {"fact": HOSTILE, "faithfulness": 0.75, **numbers},
        {"fact": "unknown", "faithfulness": None, "low": None, "high": None, "size": None},
        {"fact": "one prompt", "faithfulness": 1.2, **numbers, "low": None, "high": None},
    ]


def curve_rows() -> list[dict]:
    return [
        {"fact": fact, "size": size, "n_edges": int(1000 * size), "faithfulness": value}
        for fact, values in (
            ("a", (0.1, 0.6, 1.0)),
            (HOSTILE, (-4.0, 0.2, 1.0)),
            ("b", (None,) * 3),
        )
        for size, value in zip((0.001, 0.1, 1.0), values, strict=True)
    ]


def test_faithfulness_stands_with_interval_beside_random_circuits():
    figure = all_figures()["faithfulness"]
    *drawn, circuit = figure.data
    assert [trace.name for trace in drawn] == ["random (mean)", "by degree (mean)"]
    assert [list(trace.x) for trace in drawn] == [[0.0, 0.0], [0.3, 0.3]]
    assert list(circuit.x) == [0.75, 1.2]
    assert circuit.error_x.array[0] == pytest.approx(0.15)
    assert circuit.error_x.arrayminus[0] == pytest.approx(0.25)
    assert circuit.error_x.array[1] is None
    assert "unknown" not in str(figure)


def test_curve_draws_known_facts_and_all_of_them_together():
    figure = all_figures()["curve"]
    assert [list(trace.y) for trace in figure.data] == [
        [0.1, 0.6, 1.0],
        [-4.0, 0.2, 1.0],
        [0.0, 0.4, 1.0],
    ]
    assert all(list(trace.x) == [0.1, 10, 100] for trace in figure.data)
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.yaxis.range[0] == pytest.approx(-1.05)  # -4 would squeeze the others


@pytest.mark.parametrize(
    "name",
    [
        "circuit",
        "overlap",
        "turnover",
        "steps",
        "knowledge",
        "diff",
        "edges",
        "faithfulness",
        "curve",
    ],
)
def test_figures_have_axis_titles_and_no_foreign_markup(name):
    figure = all_figures()[name]
    titles = [axis.title.text for axis in figure.select_xaxes()]
    assert any(titles)
    assert all(axis.title.text for axis in figure.select_yaxes())
    text = json.dumps(figure.to_plotly_json(), default=str)
    assert "<img" not in text
    assert "<b>" not in text


@pytest.mark.parametrize(
    "figure",
    [
        overlap_figure([]),
        turnover_figure([]),
        steps_figure([], against="first"),
        knowledge_figure([], []),
        diff_figure([]),
        edge_figure([], start="", stop="", meaning=LOGITS),
        faithfulness_figure(fact_rows()[1:2], {}),
        curve_figure(curve_rows()[-3:], {}),
    ],
)
def test_empty_tables_say_so(figure):
    assert figure.layout.annotations[0].text


def test_as_text_escapes_markup_and_shortens():
    assert as_text("<b>&lt;\n $x$") == "&lt;b&gt;&amp;lt; &#36;x&#36;"
    assert as_text("y" * 60) == "y" * 47 + "…"


def make_page(name: str = HOSTILE, value: float = math.nan) -> str:
    figure = all_figures()["overlap"]
    cells = [[{"table": make_table(SCORES), "n_selected": 4, "stats": []}]]
    facts = [{"id": name, "label": name}]
    blocks = [
        figure_block("overlap", "Overlap", {"all": figure}, "caption"),
        circuit_block("circuit", "Circuit", TOPOLOGY, facts, ["e"], cells, LOGITS, "caption"),
        beside_block("beside", "Beside", TOPOLOGY, facts, {name: GATES}, name, cells, "caption"),
    ]
    details = [{"label": "x", "values": [{"t": value}]}]
    return render_page(kind="Test", title=name, details=details, blocks=blocks)


def test_page_is_deterministic():
    assert make_page() == make_page()


def test_page_data_cannot_end_its_element_and_holds_no_nan():
    page = make_page()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1]
    assert not re.search("[<>&\u2028\u2029]|NaN|Infinity", data)
    document = json.loads(data)
    assert document["title"] == HOSTILE
    assert document["details"][0]["values"][0]["t"] is None


def test_page_policy_allows_hashes_only():
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', make_page())[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy
    assert "unsafe-eval" not in policy
    assert "http" not in policy


def test_bundle_speaks_the_schema_of_the_installed_plotly():
    def version(text):
        return re.search(r"plotly\.js[^\n]* v(\d+)\.", text[:200])[1]

    bundle = files("kcircuits.plots").joinpath("assets", "plotly-cartesian.min.js")
    assert version(bundle.read_text(encoding="utf-8")) == version(get_plotlyjs())
