"""``EpochOverlap`` and its steps: equal to diffs, streamed, refused where nothing compares."""

import json
import weakref
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from kcircuits.analysis.overlap.swap_test import holm
from kcircuits.core.topology import Topology
from kcircuits.errors import IncomparableError, UsageError
from kcircuits.study.fact_cells import stream_facts
from kcircuits.study.overlap.epoch_steps import step_pairs
from kcircuits.study.overlap.fact_pairs import PairOptions
from kcircuits.study.overlap.read import overlap_facts, overlap_run
from kcircuits.study.run import open_run

TOPOLOGY = Topology(n_layers=6, n_heads=4)
N_EDGES, EPOCHS = 40, ("ep0", "ep1", "ep2", "ep3")


@pytest.fixture(scope="module")
def run(synthetic, tmp_path_factory):
    """24 facts of 12 subjects; circuits move from ep1 to ep2; ep3 is ep2 again."""
    facts = synthetic.make_facts(24, 8)
    known = np.ones((24, 3), dtype=bool)
    known[3, 0] = known[10, 1] = False
    epochs, _ = synthetic.make_epochs(
        facts, TOPOLOGY, n_edges=N_EDGES, steps=[0.0, 0.4], noise=0.4, known=known
    )
    folder = tmp_path_factory.mktemp("runs") / "synthetic"
    return open_run(synthetic.write_run(folder, facts, epochs | {"ep3": epochs["ep2"]}))


@pytest.fixture(scope="module")
def overlap(run):
    return run.overlap()


@pytest.mark.parametrize("level", ["edge", "node"])
def test_every_pair_says_what_the_diff_of_the_two_epochs_says(run, level):
    overlap = run.overlap(level=level, by="frequency")
    rows = {(row["from"], row["to"], row["stratum"]): row for row in overlap.rows}
    for start, stop in combinations(EPOCHS, 2):
        for expected in run.diff(start, stop, level=level, by="frequency").rows:
            row = rows[start, stop, expected["stratum"]]
            for name in ("facts", "gained", "lost", "kept", "jaccard", "ceiling", "chance"):
                assert row[name] == pytest.approx(expected[name]), name
            if row["turnover"]:
                assert row["turnover"] == pytest.approx(expected["turnover"])
            else:  # identical, or (nodes) too low a ceiling
                assert row["turnover"] == expected["turnover"]


def test_the_diagonal_is_the_ceiling_and_identical_epochs_have_no_turnover(overlap):
    jaccard, turnover = overlap.matrix("jaccard"), overlap.matrix("turnover")
    np.testing.assert_allclose(np.diag(jaccard), np.diag(overlap.matrix("ceiling")))
    assert turnover[2, 3] == 0
    assert (turnover[0, 2], turnover[1, 3]) == (
        pytest.approx(0.4, abs=0.06), pytest.approx(0.4, abs=0.06)
    )  # fmt: skip
    assert abs(turnover[0, 1]) < 0.05
    assert overlap.matrix("gained")[0, 2] == overlap.matrix("lost")[2, 0]
    (row,) = [row for row in overlap.rows if (row["from"], row["to"]) == ("ep0", "ep2")]
    assert row["turnover_low"] < 0.4 < row["turnover_high"]
    assert row["chance"] < row["jaccard"] < row["ceiling"]
    assert row["other_facts"] == pytest.approx(row["chance"], abs=0.01)  # drawn independently
    assert (row["facts"], row["entities"]) == (23, 12)


@pytest.mark.parametrize("against", ["previous", "first", "last"])
def test_steps_say_what_diffs_say_with_p_adjusted(run, overlap, against):
    steps = overlap.against(against)
    diffs = [run.diff(EPOCHS[i], EPOCHS[j]) for i, j in step_pairs(4, against)]
    assert [step.epochs for step in steps.steps] == [diff.epochs for diff in diffs]
    for row, diff in zip(steps.rows, diffs, strict=True):
        (expected,) = diff.rows
        for name, value in expected.items():
            if name not in ("reason", "turnover_detectable"):
                assert row[name] == value, name
    tested = {}
    for diff in diffs:
        for one in diff.fact_diffs:
            if one.verdict.p == one.verdict.p:
                tested.setdefault(one.fact.id, []).append(one.verdict.p)
    for fact_id, p in tested.items():
        held = [row["q"] for row in steps.fact_rows if row["fact"] == fact_id]
        assert [q for q in held if q is not None] == pytest.approx(holm(np.array(p)).tolist())
    changed = {row["to"] if against != "last" else row["from"] for row in steps.rows
               if row["verdict"] == "changed"}  # fmt: skip
    assert (
        changed == {"previous": {"ep2"}, "first": {"ep2", "ep3"}, "last": {"ep0", "ep1"}}[against]
    )


def test_views_and_groups_read_what_is_asked_for(overlap):
    assert overlap.previous.rows == overlap.against("previous").rows
    grouped = overlap.grouped("frequency")
    assert list(grouped.summaries) == ["high", "low"]
    assert sum(row["facts"] for row in grouped.rows if row["from"] == row["to"] == "ep2") == 24
    assert {row["stratum"] for row in grouped.first.rows} == {"high", "low"}
    assert "EpochOverlap: 24 facts, 4 epochs" in repr(overlap)
    assert "ep1 -> ep2 all: turnover" in repr(overlap.previous)
    assert overlap["fact-003"].fact.id == "fact-003"
    assert overlap.plot().data[0].type == overlap.plot("turnover").data[0].type == "heatmap"
    assert overlap.previous.plot().data[0].name == "all"


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_results_do_not_depend_on_the_number_of_threads(run, overlap, n_workers):
    again = run.overlap(n_workers=n_workers, measures=True)
    for name, table in overlap.tables.items():
        np.testing.assert_array_equal(again.tables[name], table)
    rows = [{k: v for k, v in row.items() if k != "measures"} for row in again.rows]
    assert rows == overlap.rows


@pytest.mark.parametrize(("n_workers", "most"), [(1, 2), (2, 8)])
def test_few_facts_are_held_at_once(run, n_workers, most):
    facts, counts = [], []

    def watched(stream, n_facts):
        assert n_facts == 24
        for one in stream:
            facts.append(weakref.ref(one))
            counts.append(sum(fact() is not None for fact in facts))
            yield one

    overlap = overlap_run(run, progress=watched, n_workers=n_workers)
    assert len(counts) == 24
    assert max(counts) <= most
    assert all(one.halves is None for one in overlap.fact_pairs)
    held = sum(table.nbytes for one in overlap.fact_pairs for table in one.pairs.tables.values())
    assert held <= 24 * 10 * 16 * 8  # [measure, epoch, epoch] of each fact, and nothing else


def test_the_document_is_json_without_nan(run, overlap):
    document = json.loads(json.dumps(overlap.to_json(), allow_nan=False))
    assert document["schema"] == "kcircuits.overlap/1"
    assert document["epochs"] == list(EPOCHS)
    assert (document["level"], document["prompts"], document["n_edges"]) == ("edge", 8, N_EDGES)
    assert document["unverified"] == ["ep0"]
    assert len(document["rows"]) == 10
    assert set(document["rows"][1]) == {
        "stratum", "from", "to", "facts", "entities", "jaccard", "jaccard_low", "jaccard_high",
        "ceiling", "ceiling_low", "ceiling_high", "chance", "turnover", "turnover_low",
        "turnover_high", "chance_matched", "other_facts", "gained", "lost", "kept",
        "jaccard_same_prompts",
    }  # fmt: skip
    steps = json.loads(json.dumps(overlap.previous.to_json(), allow_nan=False))
    assert (steps["against"], len(steps["steps"]), len(steps["fact_steps"])) == ("previous", 3, 72)


def test_options_add_what_they_name(run):
    facts = run.fact_ids[:6]
    overlap = run.overlap(
        facts=facts, epochs=["ep0", "ep2"], measures=True, pruned=True, degree=True,
        n_prompt_draws=20, swaps=True,
    )  # fmt: skip
    row = overlap.rows[1]
    assert set(row["measures"]) == {"weighted", "spearman", "rbo"}
    assert row["jaccard_pruned"] == pytest.approx(
        run.diff("ep0", "ep2", facts=facts).jaccard_pruned()
    )
    assert row["jaccard_same_prompts"] == pytest.approx(
        run.diff("ep0", "ep2", facts=facts).jaccard_same_prompts
    )
    assert row["chance"] < row["chance_degree"] < row["jaccard"]
    assert row["turnover_low_prompts"] < row["turnover"] < row["turnover_high_prompts"]
    assert row["swap_p"] == pytest.approx(1 / 2000)  # three relations: 24 templates, drawn
    assert row["swap_turnover"] < row["turnover"]
    for measure in row["measures"].values():
        assert measure["chance"] < measure["value"] < measure["ceiling"]


def test_a_missing_result_leaves_its_fact_out_of_its_pairs(run, overlap):
    facts = [
        replace(one, cells=(*one.cells[:2], None, one.cells[3])) if i in (0, 1) else one
        for i, one in enumerate(stream_facts(run, EPOCHS))
    ]
    part = overlap_facts(lambda: facts, epochs=EPOCHS)
    counts = part.matrix("facts")
    assert counts[2, 2] == overlap.matrix("facts")[2, 2] - 2
    assert counts[0, 3] == overlap.matrix("facts")[0, 3]
    assert part.matrix("jaccard")[0, 3] == pytest.approx(overlap.matrix("jaccard")[0, 3])
    assert [row["facts"] for row in part.previous.rows] == [22, 21, 22]


def test_facts_of_one_prompt_are_left_out_and_told(synthetic, tmp_path):
    facts = synthetic.make_facts(4, 1)
    epochs, _ = synthetic.make_epochs(facts, TOPOLOGY, n_edges=N_EDGES, steps=[0.2])
    overlap = open_run(synthetic.write_run(tmp_path / "run", facts, epochs)).overlap(measures=True)
    assert len(overlap.without_halves) == 4
    row = overlap.rows[1]
    assert (row["facts"], row["jaccard"], row["turnover"]) == (0, None, None)
    assert overlap.previous.rows[0]["reason"] == "1 discovery prompts; at least 4 are needed"


def test_what_cannot_be_compared_is_refused(run):
    def altered(**changes):
        facts = list(stream_facts(run, EPOCHS))
        cell = replace(facts[5].cells[1], **changes)
        facts[5] = replace(facts[5], cells=(facts[5].cells[0], cell, *facts[5].cells[2:]))
        return overlap_facts(lambda: facts, epochs=EPOCHS)

    with pytest.raises(IncomparableError, match="budget is 40 in one cell and 41 in another"):
        altered(n_edges=41)
    with pytest.raises(IncomparableError, match="topology is 6 layers x 4 heads in one cell"):
        altered(topology=Topology(n_layers=7, n_heads=4))
    with pytest.raises(IncomparableError, match="epoch 'ep1' has cells of two checkpoints"):
        altered(checkpoint="f" * 64)
    with pytest.raises(IncomparableError, match="no fact has a result at ep0"):
        overlap_facts(list, epochs=("ep0",))


def test_what_cannot_be_meant_is_refused(run, overlap):
    with pytest.raises(UsageError, match="level is 'layer'"):
        run.overlap(level="layer")
    with pytest.raises(UsageError, match="no fact has a stratum 'colour'"):
        run.overlap(by="colour")
    with pytest.raises(UsageError, match="no fact has a stratum 'colour'"):
        overlap.grouped("colour")
    with pytest.raises(UsageError, match="there is no option 'measure'"):
        run.overlap(measure=True)
    with pytest.raises(UsageError, match="keeps degrees"):
        run.overlap(level="node", degree=True)
    with pytest.raises(UsageError, match="against is 'next'"):
        overlap.against("next")
    with pytest.raises(UsageError, match="1 epoch has no step"):
        _ = run.overlap(epochs=["ep1"]).previous
    with pytest.raises(UsageError, match="n_prompt_draws is -1"):
        PairOptions.of(n_prompt_draws=-1)
    with pytest.raises(UsageError, match="'nobody' has no result"):
        overlap["nobody"]
