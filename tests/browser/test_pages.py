"""The exported pages, opened in a browser: right numbers, foreign text as text, nothing leaves."""

import html
import json
from dataclasses import replace

import numpy as np
import pytest

from kcircuits.core.bootstrap import BootstrapInterval
from kcircuits.core.circuit import Circuits
from kcircuits.core.curve import FaithfulnessCurve
from kcircuits.core.faithfulness import Faithfulness
from kcircuits.core.score_meaning import ScoreMeaning
from kcircuits.core.topology import Topology
from kcircuits.plots.circuit import circuit_figure, circuit_table, kinds_of
from kcircuits.plots.page import render_page, table_block
from kcircuits.study.comparison.beside import circuit_edges
from kcircuits.study.diff.page import diff_page
from kcircuits.study.evaluation.evaluation import Evaluation
from kcircuits.study.evaluation.page import evaluation_page
from kcircuits.study.report import report_page
from kcircuits.study.results import epoch_overlap, read_results
from kcircuits.study.run import open_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HOSTILE = (
    "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>",
    "<b onmouseover='window.hit=1'>bold</b>&lt;i&gt;",
    "\"quotes' `ticks` \\u003cscript\\u003e $x$ %{x}",
    "line\u2028and\u2029paragraph \u202eright to left\u202c שלום",
)
LOGITS = ScoreMeaning(unit="logits", helps="below 0")
TRACES = "(id) => document.getElementById(id).data"


@pytest.fixture(scope="module")
def run(new_run):
    return new_run()


@pytest.fixture(scope="module")
def report(run):
    return report_page(run)


def choose_epoch(page, epoch):
    page.get_by_role("radio", name=epoch, exact=True).check(force=True)


def test_heat_map_shows_the_ceilings_on_its_diagonal(open_page, run, report):
    page = open_page(report)
    expected = epoch_overlap(read_results(run)).matrix("jaccard")
    shown = np.array(page.evaluate(TRACES, "overlap-plot")[0]["z"], dtype=float)
    np.testing.assert_allclose(shown, expected)
    text = page.locator("#overlap-plot .heatmap-label text").all_text_contents()
    assert text == [f"{value:.2f}" for value in expected.ravel()]


def test_circuit_follows_its_selectors(open_page, run, report):
    page = open_page(report)
    expected = run.cells("ep0", ["fact-3"])[0]
    page.locator("#circuit-fact select, select#circuit-fact").select_option(index=3)
    choose_epoch(page, "ep0")
    table = circuit_table(
        expected.candidates, expected.prompt_scores.mean(0), run.topology,
        fact="fact-3", epoch="ep0", n_edges=expected.n_edges,
    )  # fmt: skip
    wanted = json.loads(circuit_figure(table, run.topology, kinds_of(LOGITS)).to_json())["data"]
    traces = page.evaluate(TRACES, "circuit-plot")
    for shown, want in zip(traces[1:-2], wanted[1:-2], strict=True):
        np.testing.assert_allclose(
            np.array(shown["x"], dtype=float), np.array(want["x"], dtype=float)
        )
        np.testing.assert_allclose(
            np.array(shown["y"], dtype=float), np.array(want["y"], dtype=float)
        )
    assert sorted(traces[-2]["text"]) == sorted(wanted[-2]["text"])
    for shown, want in zip(traces[-1]["customdata"], wanted[-1]["customdata"], strict=True):
        assert html.unescape(shown[0]) == html.unescape(want[0])
        assert shown[1] == pytest.approx(want[1], rel=1e-3)
        assert shown[2:] == want[2:]
    assert page.locator("#circuit-count-text").inner_text() == "Strongest 30 of 30 edges"
    assert "known\nno" not in page.locator("#circuit-stats").inner_text()


def test_edge_slider_and_table(open_page, run, report):
    page = open_page(report)
    page.locator("#circuit-count").fill("12")
    assert page.locator("#circuit-count-text").inner_text() == "Strongest 12 of 30 edges"
    assert len(page.evaluate(TRACES, "circuit-plot")[-1]["x"]) == 12
    page.get_by_text("The 15 strongest edges as a table").click()
    cell = run.cells("ep2", ["fact-0"])[0]
    scores = cell.prompt_scores.mean(0)
    strongest = np.abs(scores).argmax()
    u, v = divmod(int(cell.candidates[strongest]), run.topology.n_backward)
    first = page.locator("#circuit-edges tr").first.locator("td").all_inner_texts()
    assert first[1] == run.topology.edge_name(u, v).replace("->", " → ")
    assert float(first[2].replace("−", "-")) == float(f"{scores[strongest]:.4g}")


@pytest.fixture(scope="module")
def pruned(new_run):
    return new_run(pruned=("fact-1", "fact-4"), fraction=0.4)


def test_methods_stand_beside_each_other(open_page, pruned):
    """Both circuits of a fact, coloured by what they share, with their numbers."""
    page = open_page(report_page(pruned))
    assert page.locator("#beside h3").all_inner_texts() == ["eap-ig-inputs", "edge-pruning"]
    options = page.locator("#beside-fact option").all_inner_texts()
    assert [text.split(" · ")[0] for text in options] == ["fact-1", "fact-4"]
    page.locator("#beside-fact").select_option(index=1)
    page.locator("#beside-count").fill(page.locator("#beside-count").get_attribute("max"))
    gates = open_run(pruned.path, method="edge-pruning").cells("ep2", ["fact-4"])[0]
    cells = [pruned.cells("ep2", ["fact-4"])[0], gates]
    circuits = [set(circuit_edges(cell).tolist()) for cell in cells]
    both = circuits[0] & circuits[1]
    assert 0 < len(both) < min(map(len, circuits))
    for i, (cell, circuit) in enumerate(zip(cells, circuits, strict=True)):
        traces = page.evaluate(TRACES, f"beside-plot-{i}")
        counts = {trace["name"]: 0 for trace in traces[1:-2]}
        for trace in traces[1:-2]:
            counts[trace["name"]] += sum(x is not None for x in trace["x"]) // 3
        assert counts == {
            "only in this circuit": len(circuit - both),
            "also in another circuit shown": len(both),
        }
        shown = page.locator("#beside .stats").nth(i).inner_text().split("\n")
        assert dict(zip(shown[::2], shown[1::2], strict=True)) == {
            "edges": str(len(circuit)),
            "faithfulness": f"{cell.values['faithfulness']:.2f}",
            "Hit@10": "1.00",
        }
        name = ["score", "probability that the edge is kept"][i]
        assert f"<br>{name} %{{customdata[1]" in traces[-1]["hovertemplate"]
    rows = [
        line.locator("td").all_inner_texts()
        for line in page.locator("#methods-table tbody tr").all()
    ]
    assert [row[:2] for row in rows] == [
        [fact, method]
        for fact in ("fact-1", "fact-4")
        for method in ("eap-ig-inputs", "edge-pruning")
    ]
    jaccard = len(both) / len(circuits[0] | circuits[1])
    shares = [len(circuit) / pruned.topology.n_edges for circuit in circuits]
    product = shares[0] * shares[1]
    chance = f"{product / (sum(shares) - product):.3f}"
    assert rows[3][3:] == [str(len(circuits[1])), "0.91", "1.00", "1.5", f"{jaccard:.2f}", chance]
    assert rows[2][-2:] == ["–", "–"]


def test_the_edge_count_holds_for_all_methods(open_page, pruned):
    page = open_page(report_page(pruned))
    page.locator("#beside-count").fill("11")
    assert page.locator("#beside-count-text").inner_text() == "Strongest 11 edges"
    for i in range(2):
        assert len(page.evaluate(TRACES, f"beside-plot-{i}")[-1]["x"]) == 11


def test_one_method_alone_has_nothing_beside_it(open_page, report):
    assert open_page(report).locator("#beside, #methods").count() == 0


def test_selectors_work_by_keyboard(open_page, report):
    page = open_page(report)
    page.get_by_role("radio", name="ep2", exact=True).focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(TRACES, "circuit-plot")[-1]["customdata"][0][3] == "ep1"
    page.locator("#facts-table tbody button").nth(4).press("Enter")
    assert page.evaluate("document.activeElement.id") == "circuit-fact"
    assert page.locator("select#circuit-fact").input_value() == "4"


def test_knowledge_follows_the_stratum(open_page, report):
    page = open_page(report)

    def names():
        return {trace["name"] for trace in page.evaluate(TRACES, "knowledge-plot")}

    assert names() == {"x0", "x1", "x2", "training loss"}
    page.get_by_role("radio", name="split", exact=True).check(force=True)
    assert names() == {"control", "trained", "training loss"}
    page.get_by_role("radio", name="all together", exact=True).check(force=True)
    trace = page.evaluate(TRACES, "knowledge-plot")[0]
    np.testing.assert_allclose(trace["y"], [0, 2 / 6, 4 / 6])


def test_tables_hold_the_values_and_sort(open_page, run, report):
    page = open_page(report)
    step = run.diff("ep0", "ep1").rows[0]
    first = page.locator("#steps-table tbody tr").first.locator("td").all_inner_texts()
    assert first[:3] == ["ep0 → ep1", "all", str(step["facts"])]
    assert first[6:9] == [f"{step[name]:.3f}" for name in ("jaccard", "ceiling", "chance")]
    head = page.locator("#facts-table thead button", has_text="faithfulness")
    column = page.locator("#facts-table tbody tr td:nth-child(9)")
    assert column.all_inner_texts() == ["0.50", "0.55", "–", "0.65", "0.70", "0.75"]
    head.click()
    assert column.all_inner_texts() == ["0.50", "0.55", "0.65", "0.70", "0.75", "–"]
    head.click()
    assert column.all_inner_texts()[:2] == ["–", "0.75"]
    assert page.locator("#facts-table th[aria-sort=descending]").count() == 1
    assert page.locator("#facts-table tbody tr td:nth-child(6)").first.inner_text() == "●●●"


def test_unverified_epochs_are_marked(open_page, report):
    page = open_page(report)
    chips = page.locator("dd.chips > span").all_inner_texts()
    assert [chip for chip in chips if "unverified" in chip] == [
        chip for chip in chips if "ep1" in chip
    ]


def test_hostile_text_stays_text(open_page, new_run):
    run = new_run(fact_ids=HOSTILE, name=HOSTILE[0])
    page = open_page(report_page(run))
    assert page.locator("h1").inner_text() == HOSTILE[0]
    shown = page.locator("#facts-table tbody tr td:first-child").evaluate_all(
        "(cells) => cells.map((cell) => cell.textContent)"
    )
    assert shown == list(HOSTILE)
    options = page.locator("select#circuit-fact option").evaluate_all(
        "(options) => options.map((option) => option.textContent)"
    )
    assert [text.split(" · ")[0] for text in options] == list(HOSTILE)
    page.locator("#facts-table tbody button").nth(1).click()
    assert page.evaluate("window.hit") is None
    assert page.locator("img, b, i").count() == 0


def test_hostile_text_in_figures_stays_text(open_page, new_run):
    run = new_run(fact_ids=HOSTILE)
    page = open_page(diff_page(run.diff("ep0", "ep2")))
    ticks = page.locator("#edges-plot .yaxislayer-above text, #edges-plot .ytick text")
    text = " ".join(ticks.evaluate_all("(ticks) => ticks.map((tick) => tick.textContent)"))
    assert any(" ".join(name.split())[:30] in text for name in HOSTILE)
    assert page.evaluate("window.hit") is None
    assert page.locator("svg a, svg tspan[style]").count() == 0


def test_hover_shows_edge_score_and_epoch(open_page, report):
    page = open_page(report)
    page.evaluate(
        "Plotly.Fx.hover(document.getElementById('circuit-plot'),"
        " [{curveNumber: document.getElementById('circuit-plot').data.length - 1, pointNumber: 0}])"
    )
    text = page.locator("#circuit-plot .hovertext").first.text_content()
    trace = page.evaluate(TRACES, "circuit-plot")[-1]["customdata"][0]
    assert text.startswith(html.unescape(trace[0]) + "score ")
    assert text.endswith("rank 1epoch ep2")


def test_diff_page_shows_the_rows(open_page, run):
    diff = run.diff("ep0", "ep2", by="split")
    page = open_page(diff_page(diff))
    assert page.locator("h1").inner_text() == "ep0 → ep2"
    for row, line in zip(diff.rows, page.locator("#strata-table tbody tr").all(), strict=True):
        cells = line.locator("td").all_inner_texts()
        assert cells[:2] == [row["stratum"], str(row["facts"])]
        assert cells[5:8] == [f"{row[name]:.3f}" for name in ("jaccard", "ceiling", "chance")]
        assert row["reason"] in cells[-1]
    dots = page.evaluate(TRACES, "overlap-plot")
    shown = next(trace for trace in dots if trace.get("name") == "Jaccard")["x"]
    np.testing.assert_allclose(shown, [row["jaccard"] for row in diff.rows])


def make_evaluation(facts):
    """Two facts judged on three prompts each, one of them not known."""
    topology = Topology(n_layers=4, n_heads=3)
    mask = np.zeros((2, *topology.edge_mask.shape), dtype=bool)
    mask[:, 0, 0] = True
    shape = {"sizes": np.array([0.001, 0.1, 1.0]), "is_gated": np.array([False, True])}
    metrics = {"clean_metric": np.array([4.0, 0.1]), "empty_metric": np.array([0.0, 0.0])}
    names = tuple(fact.id for fact in facts)
    counts = np.array([[1, 90, 900], [1, 90, 900]])
    curve = FaithfulnessCurve(
        fact_ids=names, n_selected=counts, n_edges=counts, n_ties=counts * 0,
        metric=np.array([[0.4, 3.0, 4.0], [0.1, 0.1, 0.1]]), by="size", ablation="corrupt",
        prompts="evaluation", **shape, **metrics,
    )  # fmt: skip
    judged = Faithfulness(
        fact_ids=names, metric=np.array([3.0, 0.05]), faithfulness=np.array([0.75, np.nan]),
        is_gated=shape["is_gated"], hit_at_k=np.array([1.0, 0.0]), k=10,
        target_rank=np.array([1.5, 20.0]), ablation="corrupt", prompts="evaluation", **metrics,
    )  # fmt: skip
    interval = BootstrapInterval(
        estimate=judged.faithfulness, low=np.array([0.7, np.nan]), high=np.array([0.8, np.nan]),
        n_units=np.array([3, 3]), confidence=0.95, n_draws=10,
    )  # fmt: skip
    return Evaluation(
        epoch="ep2", content_hash="0" * 64, run="demo", method="eap", params={"metric": "kl"},
        metric="logit-difference", facts=facts, left_out=(),
        circuits=Circuits.from_mask(mask, topology, fact_ids=names), faithfulness=judged,
        intervals=interval, seed=0,
        curves={"size": curve, "importance": replace(curve, by="importance")},
        baselines={"size": np.array([[0.1, np.nan], [-0.102, np.nan]])},
    )  # fmt: skip


def test_evaluation_page_shows_the_numbers(open_page, run):
    page = open_page(evaluation_page(make_evaluation(run.facts[:2])))
    assert page.locator("h1").inner_text() == "demo, ep2"
    rows = [
        line.locator("td").all_inner_texts() for line in page.locator("#facts-table tbody tr").all()
    ]
    area = (0.1 + 0.75) / 2 * 0.099 + (0.75 + 1) / 2 * 0.9
    assert rows == [
        ["fact-0", "1", "0.75\n0.70 to 0.80", "1.00", "1.5", "3.00", "4.00", "0.00", "0.00",
         f"{area:.3f}", f"{0.999 - area:.3f}"],
        ["fact-1", "1", "–\nnot known", "0.00", "20.0", "0.05", "0.10", "0.00", "–", "–", "–"],
    ]  # fmt: skip
    assert page.evaluate(TRACES, "faithfulness-plot")[-1]["x"] == [0.75]
    page.get_by_role("radio", name="by importance (CPR)", exact=True).check(force=True)
    traces = page.evaluate(TRACES, "curve-plot")
    assert [trace["y"] for trace in traces] == [[0.1, 0.75, 1]] * 3
    cards = page.locator(".card .value").all_inner_texts()
    assert cards[:4] == ["0.75", "0.75", f"{area:.3f}", f"{area:.3f}"]


@pytest.mark.parametrize("width", [390, 1280])
def test_evaluation_page_fits_its_width(open_page, run, width):
    page = open_page(evaluation_page(make_evaluation(run.facts[:2])), width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_its_width(open_page, pruned, width):
    page = open_page(report_page(pruned), width=width, height=844)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    axes = page.evaluate("document.getElementById('circuit-plot').layout")
    upwards, sideways = ("yaxis", "xaxis") if width < 700 else ("xaxis", "yaxis")
    assert axes[upwards]["title"]["text"] == "layer (index)"
    assert axes[sideways]["title"]["text"] == "head (index)"


def test_one_epoch_one_fact_no_probes(open_page, new_run):
    run = new_run(n_epochs=1, fact_ids=("only",), has_probes=False)
    page = open_page(report_page(run))
    assert "No probes in this run" in page.locator("#knowledge-plot").inner_text()
    assert page.locator("#steps p").last.inner_text() == "Nothing to show."


def test_unfinished_run_shows_what_is_there(open_page, new_run):
    run = new_run(missing=frozenset({("fact-1", 2), ("fact-2", 2)}))
    page = open_page(report_page(run))
    assert "2 results are missing" in page.locator("dl.details").inner_text()
    page.locator("select#circuit-fact").select_option(index=1)
    assert "No result for this fact and epoch" in page.locator("#circuit-stats").inner_text()


def test_page_is_the_same_for_the_same_run(run, report):
    assert report_page(run) == report


def test_large_report_stays_small(new_run):
    run = new_run(
        n_epochs=2, fact_ids=tuple(f"f{i}" for i in range(36)),
        topology=Topology(n_layers=8, n_heads=4),
    )  # fmt: skip
    per_epoch = (len(report_page(run)) - 1_600_000) / 2
    assert 1_600_000 + 9 * per_epoch < 6_000_000


def test_policy_blocks_what_the_page_does_not_carry(open_page, browser, tmp_path):
    """The guard itself: an inline handler in the page's own policy must be refused."""
    text = render_page(
        kind="Test", title="t", details=[],
        blocks=[table_block("t", "T", [{"label": "a"}], [[1]], "c")],
    )  # fmt: skip
    file = tmp_path / "broken.html"
    file.write_text(text.replace("<noscript>", "<img src=x onerror='window.hit=1'><noscript>"))
    page = browser.new_page()
    logged: list[str] = []
    page.on("console", lambda message: logged.append(message.text))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate("window.hit") is None
    assert any("Content Security Policy" in text for text in logged)
    page.close()
