"""``Run.overlap_with``: two trainings of the same facts, or two methods of one run."""

import json
from dataclasses import replace

import numpy as np
import pytest

import kcircuits as kc
from kcircuits.core.provenance import Provenance
from kcircuits.core.topology import Topology
from kcircuits.errors import IncomparableError, UsageError
from kcircuits.io.run_record import read_run_record, write_run_record
from kcircuits.study.between.common_rows import common_rows

TOPOLOGY = Topology(n_layers=6, n_heads=4)
N_EDGES = 40


@pytest.fixture(scope="module")
def facts(synthetic):
    return synthetic.make_facts(24, 8)


@pytest.fixture(scope="module")
def cells(synthetic, facts):
    """Of two runs: the second has half of the circuit exchanged in half of the facts."""
    return synthetic.make_cells(
        facts, TOPOLOGY, n_edges=N_EDGES, noise=0.4, moved=[0.5] * 12 + [0.0] * 12,
        unknown=["fact-003"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def write(synthetic, tmp_path_factory):
    def written(name, facts, epochs):
        folder = tmp_path_factory.mktemp("runs") / name
        return kc.open_run(synthetic.write_run(folder, facts, epochs))

    return written


@pytest.fixture(scope="module")
def runs(write, facts, cells):
    first, second = cells
    return (
        write("seed0", facts, {"ep0": first, "ep1": first}),
        write("seed1", facts, {"ep0": first, "ep1": second, "ep2": second}),
    )


@pytest.fixture(scope="module")
def found(runs):
    return runs[0].overlap_with(runs[1])


def pruned(cells, *, n_folds=4, scale=1e-3):
    """The same circuits as gates would give them: folds of the prompts, in other units."""
    provenance = Provenance(
        method="edge-pruning", params={"n_folds": n_folds, "steps": 3}, is_importance=True
    )
    return [
        replace(
            cell,
            prompt_idx=np.arange(n_folds),
            prompt_scores=np.stack(
                [scale * cell.prompt_scores[fold::n_folds].mean(0) for fold in range(n_folds)]
            ),
            provenance=provenance,
        )
        for cell in cells
    ]


def test_two_runs_are_judged_as_two_epochs_are(found, runs, cells, facts):
    assert (found.kind, found.names, found.epochs) == ("runs", ("seed0", "seed1"), ("ep0", "ep1"))
    same, other = found.rows
    assert (same["turnover"], same["verdict"]) == (0, "no-change")
    assert same["reason"] == "identical scores"
    assert same["own"] == pytest.approx(1)
    diff = kc.Diff.from_cells(*cells, epochs=("seed0", "seed1"), facts=facts)
    for name, value in diff.rows[0].items():
        assert other[name] == value, name
    assert other["verdict"] == "changed"
    assert other["unknown"] == 1
    reasons = {row["fact"]: row["reason"] for row in found.fact_rows if row["epoch"] == "ep1"}
    assert reasons["fact-003"] == "fact not known at seed0"


def test_a_fact_is_nearer_to_itself_than_to_others_of_its_relation(found):
    """Circuits of different facts share nothing here, those of one fact half or all."""
    row = found.rows[1]
    assert row["own"] == pytest.approx(1 - row["turnover"])
    assert row["own"] > 0.6
    assert abs(row["others"]) < 0.05
    assert row["own_p"] == pytest.approx(0.001)
    assert row["own_more_low"] < row["own"] - row["others"] < row["own_more_high"]


def test_facts_that_are_only_their_relation_are_no_nearer_to_themselves(synthetic, write, facts):
    cells = [
        synthetic.make_related_cells(
            facts, TOPOLOGY, n_edges=N_EDGES, shared=0.0, within=1.0, noise=0.5, seed=0
        )
    ]
    rng = np.random.default_rng(1)
    noise = [
        rng.standard_normal(cell.prompt_scores.shape).astype(np.float32) * 0.3 for cell in cells[0]
    ]
    again = [
        replace(cell, prompt_scores=cell.prompt_scores + extra)
        for cell, extra in zip(cells[0], noise, strict=True)
    ]
    found = write("a", facts, {"ep0": cells[0]}).overlap_with(write("b", facts, {"ep0": again}))
    row = found.rows[0]
    assert row["others"] > 0.9
    assert row["own_p"] > 0.05 or row["own_more"] < 0.05


def test_rows_by_stratum_and_nodes(runs):
    found = runs[0].overlap_with(runs[1], ["ep1"], by="frequency")
    assert [(row["epoch"], row["stratum"]) for row in found.rows] == [
        ("ep1", "high"), ("ep1", "low")
    ]  # fmt: skip
    nodes = runs[0].overlap_with(runs[1], ["last"], level="node")
    assert nodes.rows[0]["chance"] > found.rows[0]["chance"]


def test_the_document_is_json_and_draws(found):
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["schema"] == "kcircuits.overlap-with/1"
    assert (document["kind"], document["prompts"]) == ("runs", 8)
    assert document["hashes"]["ep1"][0] != ""
    assert len(document["facts"]) == 48
    figure = found.plot()
    line = next(t for t in figure.data if t.mode == "lines+markers" and t.name == "all")
    assert list(line.y) == [row["jaccard"] for row in document["rows"]]
    assert "identical scores" in line.customdata[0]


def test_methods_are_compared_without_a_test(write, facts, cells):
    first, _ = cells
    found = write("eap", facts, {"ep0": first}).overlap_with(
        write("prune", facts, {"ep0": pruned(first)})
    )
    assert found.kind == "methods"
    assert found.names == ("eap-ig-inputs", "edge-pruning")
    assert found.n_prompts == 4
    (row,) = found.rows
    assert row["verdict"] == "undetermined"
    assert row["reason"] == "scores of different methods cannot change places"
    assert row["turnover"] == pytest.approx(0, abs=1e-6)  # the same circuits in other units
    assert row["turnover_low"] <= row["turnover"] <= row["turnover_high"]
    assert row["facts"] == 23
    assert row["own"] == pytest.approx(1, abs=1e-6)
    assert {r["verdict"] for r in found.fact_rows} == {"undetermined"}
    json.dumps(found.to_json(), allow_nan=False)


def test_a_method_with_other_circuits_turns_them_over(write, facts, cells):
    first, second = cells
    moved = [replace(cell, is_known=True) for cell in second]
    found = write("eap", facts, {"ep0": first}).overlap_with(
        write("prune", facts, {"ep0": pruned(moved)})
    )
    runs = write("one", facts, {"ep0": first}).overlap_with(write("two", facts, {"ep0": moved}))
    # folds of two prompts leave 3 splits of 4 rows in place of 7 of 8 prompts
    assert found.rows[0]["turnover"] == pytest.approx(runs.rows[0]["turnover"], abs=0.03)
    assert found.rows[0]["turnover_low"] > 0.05


def test_rows_are_folded_to_the_same_prompts(facts, cells):
    cell = cells[0][0]
    (folded, kept), templates = common_rows(facts[0], (cell, pruned([cell])[0]))
    assert kept.prompt_idx.tolist() == folded.prompt_idx.tolist() == [0, 1, 2, 3]
    for fold in range(4):
        np.testing.assert_allclose(
            folded.prompt_scores[fold],
            (cell.prompt_scores[fold] + cell.prompt_scores[fold + 4]) / 2,
            rtol=1e-5,
        )
        assert len(templates[fold]) == 2
        assert f"phrase {fold}," in templates[fold][0]
        assert f"phrase {fold + 4}," in templates[fold][1]
    (two, four), _ = common_rows(
        facts[0], (pruned([cell], n_folds=2)[0], pruned([cell], n_folds=4)[0])
    )
    assert len(two.prompt_scores) == len(four.prompt_scores) == 2
    np.testing.assert_allclose(two.prompt_scores, four.prompt_scores, rtol=1e-5)


def test_uneven_folds_are_weighted_by_their_prompts(synthetic):
    (fact,) = synthetic.make_facts(1, 5)
    (cell,), _ = synthetic.make_cells([fact], TOPOLOGY, n_edges=N_EDGES)
    (folded, _), _ = common_rows(fact, (cell, pruned([cell], n_folds=2)[0]))
    np.testing.assert_allclose(
        folded.prompt_scores[0], cell.prompt_scores[[0, 2, 4]].mean(0), rtol=1e-5
    )


def test_folds_that_do_not_fit_are_refused(facts, cells):
    cell = cells[0][0]
    pair = (pruned([cell], n_folds=3)[0], pruned([cell], n_folds=4)[0])
    with pytest.raises(IncomparableError, match="not of the same discovery prompts"):
        common_rows(facts[0], pair)
    part = replace(cell, prompt_idx=cell.prompt_idx[:6], prompt_scores=cell.prompt_scores[:6])
    with pytest.raises(IncomparableError, match="not of the same discovery prompts"):
        common_rows(facts[0], (part, pruned([cell])[0]))


def edit_request(run, **changes):
    """The run with another request in its record."""
    record = read_run_record(run.path)
    request = replace(record.requests[-1], **changes)
    write_run_record(run.path, replace(record, requests=(request,)))
    return kc.open_run(run.path)


def test_other_methods_on_other_checkpoints_are_refused(write, facts, cells):
    first, _ = cells
    ours = write("a", facts, {"ep0": first})
    theirs = write("b", facts, {"start": pruned(first), "ep0": pruned(first)})
    with pytest.raises(IncomparableError, match="what differs could not be told"):
        ours.overlap_with(theirs)


def test_what_differs_is_named(write, facts, cells, runs):
    first, _ = cells

    def refused(message, facts=facts, cells=first, field=None):
        with pytest.raises(IncomparableError, match=message) as caught:
            runs[0].overlap_with(write("other", facts, {"ep0": cells}), ["ep0"])
        assert caught.value.exit_code == 9
        assert field in (None, caught.value.field)

    changed = [replace(facts[0], object="no"), *facts[1:]]
    refused("fact 'fact-000' has other content in seed0 than in other", facts=changed)
    refused("budget is 40 in one cell and 41", cells=[replace(c, n_edges=41) for c in first])
    half = [replace(c, provenance=replace(c.provenance, dtype="bfloat16")) for c in first]
    refused("dtype is float32 in one cell and bfloat16", cells=half)
    steps = [replace(c, provenance=replace(c.provenance, params={"ig_steps": 9})) for c in first]
    refused("parameters is", cells=steps)
    wide = [replace(c, topology=Topology(n_layers=6, n_heads=5)) for c in first]
    refused("topology is 6 layers x 4 heads in one cell and 6 layers x 5 heads", cells=wide)
    strangers = [replace(fact, id=f"other-{i}") for i, fact in enumerate(facts)]
    named = [replace(c, fact_id=f.id) for c, f in zip(first, strangers, strict=True)]
    refused("no fact in common", facts=strangers, cells=named)


def test_other_tokens_and_epochs_are_refused(write, facts, cells, runs):
    first, _ = cells
    other = write("other", facts, {"ep0": first})
    records = tuple(replace(f, tokens=f"{f.tokens}!") for f in other.request.facts)
    with pytest.raises(IncomparableError, match="has other token ids") as caught:
        runs[0].overlap_with(edit_request(other, facts=records))
    assert caught.value.field == "tokenizer"
    late = write("late", facts, {"ep0": first})
    moved = tuple(replace(c, epoch=7.0) for c in late.request.checkpoints)
    with pytest.raises(IncomparableError, match=r"ep0 is epoch .* of seed0 and epoch .* of late"):
        runs[0].overlap_with(edit_request(late, checkpoints=moved))
    with pytest.raises(UsageError, match="means no checkpoint"):
        runs[0].overlap_with(runs[1], ["ep2"])
    with pytest.raises(IncomparableError, match="no common fact with finished cells at ep2"):
        runs[1].overlap_with(runs[0], ["ep2"])
    with pytest.raises(UsageError, match="no fact has a stratum 'colour'"):
        runs[0].overlap_with(runs[1], by="colour")


def test_facts_that_one_run_lacks_are_counted(write, facts, cells):
    first, second = cells
    found = write("all", facts, {"ep0": first}).overlap_with(
        write("some", facts[:20], {"ep0": second[:20]})
    )
    assert len(found.missing["ep0"]) == 4
    assert found.rows[0]["facts"] == 19


def test_runs_of_one_folder_name_are_told_apart(write, facts, cells):
    first, second = cells
    found = write("run", facts, {"ep0": first}).overlap_with(write("run", facts, {"ep0": second}))
    assert found.names[0] != found.names[1]
    assert all(name.endswith("/run") for name in found.names)
