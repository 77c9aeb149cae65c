"""``Link``: runs read into trajectories, tables, verdicts, refusals and figures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kcircuits as kc
from kcircuits.analysis.link.turnover_forgetting import forgetting_test
from kcircuits.analysis.link.verdict import MIN_EVENTS, MIN_EXCHANGES, judge_link
from kcircuits.analysis.overlap.jackknife import Interval
from kcircuits.errors import IncomparableError, UsageError
from kcircuits.io.jsonl import append_rows
from kcircuits.plots.link import edges_figure, null_figure, null_table, steps_figure, strata_figure
from kcircuits.study.link.page import link_page
from kcircuits.study.link.sources import read_source
from tests.cli.link_runs import MARK, N_EPOCHS, N_FACTS, is_lost, knowledge, write_run


@pytest.fixture(scope="module")
def folders(synthetic, tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("link")
    return [write_run(synthetic, root / f"seed{seed}", seed) for seed in range(3)]


@pytest.fixture(scope="module")
def link(folders):
    return kc.link(folders, n_permutations=2000)


def test_the_document_has_every_table(link):
    document = json.loads(json.dumps(link.to_json(n_edges=3), allow_nan=False))
    assert document["schema"] == "kcircuits.link/1"
    assert document["within"] == ["frequency", "exposure"]
    assert [run["seed"] for run in document["runs"]] == [0, 1, 2]
    assert {run["margins"] for run in document["runs"]} == {2}
    (row,) = document["rows"]
    assert (row["strategy"], row["seeds"], row["stratum"], row["facts"]) == (
        "lora", 3, "all", 3 * N_FACTS
    )  # fmt: skip
    known = [knowledge(seed) for seed in range(3)]
    risk = [k[:, :-2] & k[:, 1:-1] for k in known]
    lost = [r & ~k[:, 2:] for r, k in zip(risk, known, strict=True)]
    assert row["at_risk"] == sum(map(np.sum, risk))
    assert row["forgotten"] == sum(map(np.sum, lost))
    assert [seed["forgotten"] for seed in document["seeds"]] == [int(x.sum()) for x in lost]
    assert len(document["steps"]) == 2 * (N_EPOCHS - 2)
    assert sum(step["fact_steps"] for step in document["steps"]) == row["at_risk"]
    assert sum(row["fact_steps"] for row in document["same_step"]) == 3 * N_FACTS * (N_EPOCHS - 1)
    assert len(document["edges"]) == 3


def test_a_planted_link_is_called_one(link):
    (row,) = link.rows
    assert row["verdict"] == "precedes"
    assert row["p"] < 0.01
    assert row["auroc_low"] > 0.5
    assert row["tau_forgotten"] > row["tau_retained"] + 0.2
    assert "verdict" not in link.seeds[0]
    of_step = {(s["from"], s["outcome"]): s["turnover"] for s in link.steps}
    assert of_step["ep2", "forgotten"] > of_step["ep2", "retained"] + 0.2


def test_without_a_move_nothing_precedes(synthetic, tmp_path):
    folders = [write_run(synthetic, tmp_path / f"seed{seed}", seed, moved=0.0) for seed in range(3)]
    (row,) = kc.link(folders, n_permutations=500).rows
    assert row["verdict"] in ("no-link", "undetermined")
    assert abs(row["tau_difference"]) < 0.05


def test_the_marked_edge_is_found_alone(link):
    edges, nodes = link.distinctions
    summary = edges.row()
    assert (summary["consolidated"], summary["transient"]) == (3 * N_FACTS // 2, 3 * N_FACTS // 2)
    first = edges.items(1)[0]
    assert first["edge"] == MARK
    assert first["is_found"]
    assert first["agreeing_seeds"] == 3
    assert first["share_consolidated"] > 0.95
    assert first["share_transient"] < 0.05
    assert summary["found"] == sum(item["is_found"] for item in edges.items())
    assert summary["found"] <= 3
    assert nodes.row()["level"] == "node"
    assert all(item["node"] in link.sources[0].topology.nodes for item in nodes.items(5))
    assert summary["acquired_at_consolidated"] == pytest.approx(
        np.mean(
            [knowledge(s)[f].argmax() for s in range(3) for f in range(N_FACTS) if not is_lost(f)]
        )
    )


def test_one_seed_is_no_claim(folders):
    found = kc.open_run(folders[0]).link(n_permutations=200)
    (row,) = found.rows
    assert row["verdict"] == "undetermined"
    assert row["reason"] == "training seeds: 1; a claim needs 3"
    (alone,) = found.seeds
    assert (alone["p"], alone["auroc"]) == (row["p"], row["auroc"])


def test_strata_are_tested_apart_and_holm_adjusts(link, folders):
    found = kc.link(folders, by="exposure", n_permutations=500)
    assert [row["stratum"] for row in found.rows] == ["1", "3"]
    assert sum(row["at_risk"] for row in found.rows) == link.rows[0]["at_risk"]
    p = sorted(row["p"] for row in found.rows)
    adjusted = sorted(row["p_adjusted"] for row in found.rows)
    assert adjusted == pytest.approx([min(1, 2 * p[0]), max(min(1, 2 * p[0]), p[1])])
    for row in found.rows:
        runs = [
            source.trajectories.only(
                np.array([f.strata["exposure"] == row["stratum"] for f in source.facts])
            )
            for source in found.sources
        ]
        assert row["auroc"] == pytest.approx(forgetting_test(runs, n_permutations=9).auroc.estimate)


def test_within_decides_who_is_exchanged(folders):
    loose = kc.link(folders[:1], within=(), n_permutations=99)
    assert set(loose.sources[0].trajectories.cells) == {"all"}
    tight = kc.link(folders[:1], within=("relation", "exposure"), n_permutations=99)
    assert len(set(tight.sources[0].trajectories.cells)) == 8
    assert tight.rows[0]["distinct"] < loose.rows[0]["distinct"]


def test_margins_come_from_cells_and_probes(folders):
    source = read_source(kc.open_run(folders[0]), ())
    cell = kc.open_run(folders[0]).cells("ep3", [source.facts[5].id])[0]
    assert source.trajectories.margin[5, 3, 0] == cell.values["logprob"]
    expected = 0.75 if knowledge(0)[5, 3] else 0.25
    assert source.trajectories.margin[5, 3, 1] == expected


def copied(folder: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, to))


def test_a_run_without_probes_has_the_margin_of_its_cells(folders, tmp_path):
    folder = copied(folders[0], tmp_path / "bare")
    (folder / "probes.jsonl").unlink()
    found = kc.link([folder], n_permutations=99)
    assert found.runs[0]["margins"] == 1
    assert found.runs[0]["seed"] is None
    assert found.rows[0]["strategy"] is None


def test_what_cannot_be_meant_is_refused(folders, tmp_path):
    with pytest.raises(UsageError, match="no run is named"):
        kc.link([])
    with pytest.raises(UsageError, match="both hold seed 0"):
        kc.link([folders[0], copied(folders[0], tmp_path / "again")])
    with pytest.raises(UsageError, match="no fact has a stratum 'colour'"):
        kc.link(folders, by="colour")
    with pytest.raises(UsageError, match="no fact has a stratum 'colour'"):
        kc.link(folders, within=("colour",))
    for option in ({"k": 0}, {"n_permutations": 0}, {"seed": -1}):
        with pytest.raises(UsageError, match="expected"):
            kc.link(folders, **option)
    two = copied(folders[0], tmp_path / "two")
    append_rows(two / "probes.jsonl", [
        {"checkpoint": "ep0", "epoch": 0, "strategy": "full", "seed": 9, "fact": "fact-000",
         "prompt_idx": 0, "known": False}
    ])  # fmt: skip
    with pytest.raises(UsageError, match="probes of 2 trainings"):
        kc.link([two])


def test_probes_that_miss_an_epoch_are_refused(folders, tmp_path):
    folder = copied(folders[0], tmp_path / "missing")
    lines = (folder / "probes.jsonl").read_text().splitlines(keepends=True)
    (folder / "probes.jsonl").write_text("".join(x for x in lines if '"ep4"' not in x))
    with pytest.raises(IncomparableError, match="has no row for ep4"):
        kc.link([folder])


def test_too_few_epochs_are_refused(synthetic, tmp_path):
    facts = synthetic.make_facts(4, 4)
    from kcircuits.core.topology import Topology

    cells = synthetic.make_cells(facts, Topology(n_layers=2, n_heads=2), n_edges=10)
    folder = synthetic.write_run(tmp_path / "short", facts, dict(zip("ab", cells, strict=True)))
    with pytest.raises(IncomparableError, match="has 2 epochs with the circuits of all facts"):
        kc.link([folder])


@pytest.fixture(scope="module")
def test_of(link):
    return link.tests[0].pooled


def interval(low, high):
    return Interval(
        estimate=(low + high) / 2, low=low, high=high, standard_error=1, quantile=2, n_entities=30
    )


@pytest.mark.parametrize(
    ("low", "high", "p", "word"),
    [
        (0.51, 0.7, 0.05, "precedes"),
        (0.51, 0.7, 0.051, "undetermined"),
        (0.3, 0.49, 0.01, "less-turnover"),
        (0.5, 0.7, 0.01, "undetermined"),
        (0.41, 0.59, 0.5, "no-link"),
        (0.40, 0.59, 0.5, "undetermined"),
        (0.41, 0.60, 0.5, "undetermined"),
    ],
)
def test_verdict_rule(test_of, low, high, p, word):
    assert judge_link(replace(test_of, auroc=interval(low, high)), p, 3)[0] == word


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n_forgotten": MIN_EVENTS - 1}, f"{MIN_EVENTS} of either are needed"),
        ({"n_at_risk": 50, "n_forgotten": 45}, f"{MIN_EVENTS} of either are needed"),
        ({"n_forgotten_entities": 9}, "9 entities forgot something; 10 are needed"),
        ({"n_distinct": MIN_EXCHANGES - 1.0}, "999 ways to exchange"),
        ({"k_own": 0.19}, "ceiling too low"),
        ({"p": float("nan")}, "never meet in one step"),
    ],
)
def test_what_stands_in_the_way_is_named(test_of, change, reason):
    strong = replace(test_of, auroc=interval(0.6, 0.7))
    assert judge_link(strong, 0.001, 3)[0] == "precedes"
    word, said = judge_link(replace(strong, **change), 0.001, 3)
    assert word == "undetermined"
    assert reason in said


def test_figures_hold_the_rows(link):
    figure = steps_figure(link.steps)
    drawn = {trace.name: list(trace.y) for trace in figure.data}
    for outcome in ("forgotten", "retained"):
        rows = [r["turnover"] for r in link.steps if r["outcome"] == outcome]
        assert drawn[f"{outcome} at the next epoch"] == [v for v in rows if v is not None]
    pooled = link.tests[0].pooled
    table = null_table(pooled.null, pooled.z)
    assert sum(row["count"] for row in table) == 2000
    assert list(null_figure(table, pooled.z, pooled.p).data[1].x) == [pooled.z] * 2
    rows = link.distinctions[0].items(4)
    shares = edges_figure(rows, "edge").data[2]
    assert list(shares.x) == [row["share_consolidated"] for row in rows]
    strata = strata_figure([{**link.rows[0], "name": "all"}], "name")
    assert list(strata.data[1].x) == [link.rows[0]["auroc"]]
    assert link.plot().to_plotly_json() == figure.to_plotly_json()


def test_figures_without_rows_say_why():
    for figure in (
        steps_figure([]), null_figure([], 0, 1), edges_figure([], "edge"), strata_figure([], "x")
    ):  # fmt: skip
        assert figure.layout.annotations[0].text
    assert null_table(np.array([np.nan]), 0) == []


def test_the_page_holds_all_blocks(link):
    page = link_page(link)
    for part in ("turnover precedes forgetting", MARK, "Turnover in the same step", "What chance"):
        assert part.replace(">", "\\u003e") in page, part
