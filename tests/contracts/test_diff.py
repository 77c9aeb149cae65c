"""``Diff``: its tables, verdict rules and refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest

from kcircuits.analysis.overlap.jackknife import Interval
from kcircuits.analysis.overlap.swap_test import JointTest
from kcircuits.analysis.overlap.verdict import _fact_rule, _stratum_rule, judge_facts, too_few
from kcircuits.core.circuit import prune_dangling
from kcircuits.core.provenance import Provenance
from kcircuits.core.topology import Topology
from kcircuits.errors import IncomparableError, UsageError
from kcircuits.study.alignment import align_cells
from kcircuits.study.diff.diff import Diff

TOPOLOGY = Topology(n_layers=6, n_heads=4)
N_EDGES = 40


@pytest.fixture(scope="module")
def facts(synthetic):
    return synthetic.make_facts(24, 8)


@pytest.fixture(scope="module")
def cells(synthetic, facts):
    return synthetic.make_cells(
        facts,
        TOPOLOGY,
        n_edges=N_EDGES,
        noise=0.4,
        moved=[0.5] * 12 + [0.0] * 12,
        unknown=["fact-003", "fact-020"],
    )


@pytest.fixture(scope="module")
def diff(cells, facts):
    return compare(*cells, facts)


def compare(before, after, facts, **options):
    return Diff.from_cells(before, after, epochs=("ep3", "ep7"), facts=facts, **options)


def test_the_document_has_the_fields_of_the_contract(diff):
    document = json.loads(json.dumps(diff.to_json(), allow_nan=False))
    assert document["schema"] == "kcircuits.diff/1"
    assert (document["from"], document["to"], document["level"]) == ("ep3", "ep7", "edge")
    assert document["method"] == "eap-ig-inputs"
    assert document["fraction"] == pytest.approx(N_EDGES / TOPOLOGY.n_edges)
    assert document["prompts"] == 8
    assert 0 < document["jaccard_same_prompts"] < 1
    (row,) = document["rows"]
    assert row["stratum"] == "all"
    assert (row["facts"], row["unknown"]) == (22, 2)
    for name in ("gained", "lost", "kept", "jaccard", "ceiling", "chance", "turnover",
                 "turnover_low", "turnover_high"):  # fmt: skip
        assert isinstance(row[name], float), name
    assert row["chance"] < row["jaccard"] < row["ceiling"]
    assert row["turnover_low"] < row["turnover"] < row["turnover_high"]
    assert row["verdict"] == "changed"
    assert row["reason"]
    assert set(document["edges"][0]) == {"fact", "edge", "from", "to", "status", "is_kept"}
    facts = document["facts"]
    assert facts["acquired"] == ["fact-003", "fact-020"]
    assert len(facts["retained"]) == 22
    assert facts["forgotten"] == []


def test_moved_facts_are_found_and_others_are_not(diff):
    words = {row["fact"]: row["verdict"] for row in diff.fact_rows}
    moved = [words[f"fact-{i:03d}"] for i in range(12) if i != 3]
    still = [words[f"fact-{i:03d}"] for i in range(12, 24) if i != 20]
    assert moved.count("changed") >= 10
    assert "changed" not in still
    assert words["fact-003"] == words["fact-020"] == "undetermined"
    reasons = {row["fact"]: row["reason"] for row in diff.fact_rows}
    assert reasons["fact-003"] == "fact not known at ep3"


def test_strata_partition_the_facts(cells, facts):
    diff = compare(*cells, facts, by="frequency")
    assert [row["stratum"] for row in diff.rows] == ["high", "low"]
    assert sum(row["facts"] + row["unknown"] for row in diff.rows) == 24
    assert [row["stratum"] for row in compare(*cells, facts, by="relation").rows] == [
        "birthplace", "employer", "field", "university"
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no fact has a stratum 'colour'"):
        compare(*cells, facts, by="colour")


def test_a_diff_with_itself_is_empty(cells, facts):
    for level in ("edge", "node"):
        diff = compare(cells[0], cells[0], facts, level=level)
        (row,) = diff.rows
        assert row["turnover"] == row["gained"] == row["lost"] == 0
        assert row["facts"] == 24  # identical scores need no knowledge
        assert (row["verdict"], row["reason"]) == ("no-change", "identical scores")
        assert row["jaccard"] == row["ceiling"]
        assert diff.edges == diff.nodes == []
        assert not diff.is_different


def test_the_way_back_is_the_negative_of_the_way_there(cells, facts):
    there, back = compare(*cells, facts), compare(cells[1], cells[0], facts)
    here, opposite = there.rows[0], back.rows[0]
    assert (here["gained"], here["lost"]) == (opposite["lost"], opposite["gained"])
    for name in ("kept", "jaccard", "ceiling", "chance", "turnover", "verdict"):
        assert here[name] == opposite[name], name
    turned = [
        {**row, "from": row["to"], "to": row["from"], "is_kept": row["is_kept"][::-1],
         "status": {"gained": "lost", "lost": "gained", "kept": "kept"}[row["status"]]}
        for row in back.edges
    ]  # fmt: skip
    assert there.edges == turned
    assert there.facts.acquired == back.facts.forgotten


def test_edges_carry_the_signed_mean_scores(diff, cells):
    row = diff.edges[0]
    fact = diff.facts.retained.index(row["fact"])
    assert fact >= 0
    flat = np.ravel_multi_index(
        TOPOLOGY.edge_index(row["edge"]), (TOPOLOGY.n_forward, TOPOLOGY.n_backward)
    )
    for epoch, name in enumerate(("from", "to")):
        cell = next(cell for cell in cells[epoch] if cell.fact_id == row["fact"])
        place = np.flatnonzero(cell.candidates == flat)
        mean = cell.prompt_scores[:, place].mean() if len(place) else 0.0
        assert row["is_kept"][epoch] == bool(len(place))
        assert row[name] == pytest.approx(mean, rel=1e-5)
    sizes = [abs(row["to"] - row["from"]) for row in diff.edges]
    assert sizes == sorted(sizes, reverse=True)


def test_edges_that_were_not_kept_say_so(cells, facts):
    before, after = cells
    lost = replace(before[0], candidates=before[0].candidates[:60],
                   prompt_scores=before[0].prompt_scores[:, :60])  # fmt: skip
    rows = compare([lost, *before[1:]], after, facts).edges
    kept = {TOPOLOGY.edge_name(*divmod(int(e), TOPOLOGY.n_backward)) for e in lost.candidates}
    mine = [row for row in rows if row["fact"] == "fact-000"]
    assert any(row["from"] == 0 for row in mine)
    assert all(row["is_kept"][0] == (row["edge"] in kept) for row in mine)


def test_candidates_are_aligned_in_the_order_of_edge_names(cells):
    wide = Topology(n_layers=2, n_heads=12)  # a0.h1 and a0.h10
    pair = [replace(epoch[0], topology=wide) for epoch in cells]
    some = [np.flatnonzero(wide.edge_mask)[i::3][:50] for i in (0, 1)]
    scores = np.random.default_rng(0).standard_normal((2, 8, 50)).astype(np.float32)
    pair = [
        replace(cell, candidates=candidates, prompt_scores=rows)
        for cell, candidates, rows in zip(pair, some, scores, strict=True)
    ]
    aligned = align_cells(pair, wide)
    names = [wide.edge_name(*divmod(int(e), wide.n_backward)) for e in aligned.candidates]
    assert names == sorted(names)
    assert set(aligned.candidates) == {*some[0], *some[1]}
    for epoch, cell in enumerate(pair):
        for place, edge in enumerate(aligned.candidates):
            own = np.flatnonzero(cell.candidates == edge)
            assert aligned.is_candidate[epoch, place] == bool(len(own))
            expected = cell.prompt_scores[:, own[0]] if len(own) else np.zeros(8)
            np.testing.assert_array_equal(aligned.values[epoch, :, place], expected)


def test_pruned_jaccard_equals_that_of_pruned_circuits(synthetic, facts):
    n_edges = 300
    cells = synthetic.make_cells(facts[:1], TOPOLOGY, n_edges=n_edges, moved=0.3)
    masks = np.zeros((2, TOPOLOGY.n_forward, TOPOLOGY.n_backward), dtype=bool)
    for mask, (cell,) in zip(masks, cells, strict=True):
        top = np.argsort(-np.abs(cell.prompt_scores.mean(0)))[:n_edges]
        mask.flat[cell.candidates[top]] = True
    first, second = prune_dangling(masks, TOPOLOGY)
    expected = (first & second).sum() / (first | second).sum()
    diff = compare(*cells, facts)
    assert diff.jaccard_pruned() == pytest.approx(expected)
    assert diff.jaccard_pruned() != diff.jaccard_same_prompts


def test_edge_totals_sum_over_the_facts_of_a_stratum(cells, facts):
    diff = compare(*cells, facts, by="frequency")
    for row in diff.edge_totals("low", n_edges=5):
        u, v = TOPOLOGY.edge_index(row["edge"])
        total = 0.0
        members = [cell for cell in cells[1] if int(cell.fact_id[-3:]) % 2 == 0]
        members = [cell for cell in members if cell.fact_id != "fact-020"]
        for cell in members:
            place = np.flatnonzero(cell.candidates == u * TOPOLOGY.n_backward + v)
            total += cell.prompt_scores[:, place].mean() if len(place) else 0.0
        assert row["to"] == pytest.approx(total / len(members), rel=1e-4)
        counted = [e for e in diff.edges if e["edge"] == row["edge"] and e["status"] == "gained"]
        counted = [e for e in counted if int(e["fact"][-3:]) % 2 == 0]
        assert row["gained"] == len(counted)


def test_nodes_leave_out_input_and_logits(diff):
    names = {row["node"] for row in diff.nodes}
    assert names
    assert names <= set(TOPOLOGY.nodes) - {"input", "logits"}


def test_node_level_has_its_own_overlap(cells, facts):
    (row,) = compare(*cells, facts, level="node").rows
    assert row["chance"] > 0.2  # circuits of 40 edges touch most of 30 nodes
    assert row["kept"] <= 30


def test_the_graph_of_a_fact_has_status_and_both_scores(diff):
    graph = diff.graph("fact-000")
    rows = {row["edge"]: row for row in diff.edges if row["fact"] == "fact-000"}
    assert {data["status"] for *_, data in graph.edges(data=True)} == {"gained", "lost", "kept"}
    assert {data["name"] for *_, data in graph.edges(data=True)} == set(rows)
    for *_, key, data in graph.edges(data=True, keys=True):
        assert (data["from"], data["to"]) == (rows[data["name"]]["from"], rows[data["name"]]["to"])
        assert key in ("q", "k", "v", "in")
    with pytest.raises(UsageError, match="'fact-999' is not in this run"):
        diff.graph("fact-999")


def test_one_fact_keeps_its_verdict_among_all(diff):
    alone = diff.only("fact-001")
    (row,) = alone.rows
    expected = next(row for row in diff.fact_rows if row["fact"] == "fact-001")
    assert row["facts"] == 1
    assert {**row, "stratum": "all"} == {name: expected[name] for name in row}
    assert {edge["fact"] for edge in alone.edges} == {"fact-001"}


def test_no_fact_known_at_both_epochs_leaves_no_numbers(synthetic, facts):
    ids = [fact.id for fact in facts]
    cells = synthetic.make_cells(facts, TOPOLOGY, n_edges=N_EDGES, unknown=ids)
    (row,) = compare(*cells, facts).rows
    assert (row["facts"], row["unknown"], row["turnover"]) == (0, 24, None)
    assert (row["verdict"], row["reason"]) == ("undetermined", "no fact is known at both epochs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_edges": 41}, "budget is 40 in one cell and 41 in another"),
        ({"topology": Topology(n_layers=6, n_heads=5)}, "topology is 6 layers x 4 heads"),
        ({"provenance": Provenance(method="eap")}, "method is eap-ig-inputs in one cell and eap"),
        (
            {"provenance": Provenance(method="eap-ig-inputs", params={"ig_steps": 9})},
            "parameters is .*'ig_steps': 5.* and .*'ig_steps': 9",
        ),
        ({"fact_hash": "0" * 64}, "content is .* and 000000000000"),
        ({"prompt_idx": np.arange(1, 9)}, "discovery prompts is"),
        ({"checkpoint": "c"}, "cells of 2 checkpoints"),
    ],
)
def test_cells_without_common_ground_are_refused(cells, facts, change, message):
    before, after = cells
    spoilt = [*after[:-1], replace(after[-1], **change)]
    with pytest.raises(IncomparableError, match=message):
        compare(before, spoilt, facts)


def test_epochs_without_a_common_fact_are_refused(cells, facts):
    with pytest.raises(IncomparableError, match="no fact has a cell at both 'ep3' and 'ep7'"):
        compare(cells[0][:3], cells[1][3:], facts)
    diff = compare(cells[0][:12], cells[1][2:], facts)
    assert len(diff.missing) == 14


def test_verdict_rule_of_a_fact():
    assert _fact_rule(0.10, 0.2, 0.05)[0] == "changed"
    assert _fact_rule(0.099, 0.2, 0.01)[0] == "undetermined"
    assert _fact_rule(0.3, 0.5, 0.051)[0] == "undetermined"
    assert _fact_rule(0.05, 0.149, 0.9)[0] == "no-change"
    assert _fact_rule(0.05, 0.15, 0.9)[0] == "undetermined"


@pytest.mark.parametrize(
    ("low", "high", "p", "entities", "word", "reason"),
    [
        (0.06, 0.2, 0.05, 10, "changed", "joint swap test p = 0.05"),
        (0.06, 0.2, 0.06, 10, "undetermined", "templates swapped jointly give p = 0.06"),
        (0.05, 0.2, 0.01, 10, "undetermined", "interval too wide"),
        (-0.1, 0.099, 0.9, 10, "no-change", "ruled out"),
        (-0.1, 0.1, 0.9, 10, "undetermined", "interval too wide"),
        (np.nan, np.nan, 0.01, 9, "undetermined", "entities: 9; 10 are needed"),
    ],
)
def test_verdict_rule_of_a_stratum(low, high, p, entities, word, reason):
    interval = Interval(
        estimate=0.1, low=low, high=high, standard_error=0.1, quantile=2, n_entities=entities
    )
    found = _stratum_rule(interval, JointTest(p=p, detectable=0.1))
    assert found[0] == word
    assert reason in found[1]


@pytest.mark.parametrize(
    ("n_prompts", "n_facts", "reason"),
    [
        (3, 100, "3 discovery prompts; at least 4"),
        (5, 1, "one fact alone needs 6"),
        (7, 19, "fewer than 20 facts need 8"),
        (4, 20, None),
        (8, 1, None),
    ],
)
def test_too_few_prompts_or_facts_are_named(n_prompts, n_facts, reason):
    found = too_few(n_prompts, n_facts)
    assert (found is None) if reason is None else (reason in found)


@pytest.mark.parametrize("n_prompts", [1, 2, 3])
def test_fewer_than_four_prompts_cannot_tell(synthetic, n_prompts):
    facts = synthetic.make_facts(24, n_prompts)
    cells = synthetic.make_cells(facts, TOPOLOGY, n_edges=N_EDGES, noise=0.1)
    diff = compare(*cells, facts)
    assert diff.rows[0]["verdict"] == "undetermined"
    assert f"{n_prompts} discovery prompts" in diff.rows[0]["reason"]
    assert {row["verdict"] for row in diff.fact_rows} == {"undetermined"}
    json.dumps(diff.to_json(), allow_nan=False)


def test_noise_alone_has_no_ceiling(cells, facts):
    rng = np.random.default_rng(0)
    noise = [
        [replace(c, prompt_scores=rng.standard_normal(c.prompt_scores.shape)) for c in epoch]
        for epoch in cells
    ]
    diff = compare(*noise, facts)
    assert diff.rows[0]["turnover"] is None
    assert "ceiling too low" in diff.rows[0]["reason"]
    assert "ceiling too low" in diff.fact_rows[0]["reason"]


def test_empty_circuits_do_not_agree(cells, facts):
    """Scores of 0 everywhere: no circuit, so no overlap and no verdict."""
    blank = [
        [replace(cell, prompt_scores=cell.prompt_scores * factor) for cell in epoch]
        for epoch, factor in zip(cells, (0, 1), strict=True)
    ]
    diff = compare(*blank, facts)
    assert diff.rows[0]["jaccard"] == 0
    assert diff.rows[0]["verdict"] == "undetermined"


def test_facts_left_out_are_not_tested(diff):
    overlaps = [one.overlap for one in diff.fact_diffs]
    verdicts = judge_facts(overlaps, ["not known"] * len(overlaps))
    assert {verdict.word for verdict in verdicts} == {"undetermined"}


def test_plot_draws_every_stratum(cells, facts):
    figure = compare(*cells, facts, by="frequency").plot()
    assert len(figure.data) > 0


def test_a_fold_has_the_templates_of_its_prompts(cells, facts):
    """Facts whose folds hold the same phrasings swap jointly, whatever the subject."""

    def folded(cell):
        params = {"n_folds": 4, "steps": 3}
        return replace(
            cell,
            prompt_idx=cell.prompt_idx[:4],
            prompt_scores=cell.prompt_scores[:4],
            provenance=Provenance(method="edge-pruning", params=params, is_importance=True),
        )

    diff = compare(*([folded(cell) for cell in one] for one in cells), facts)
    assert (diff.n_prompts, diff.rows_are) == (4, "folds of the discovery prompts")
    relation = facts[0].relation
    (same,) = {one.templates for one in diff.fact_diffs if one.fact.relation == relation}
    for fold, text in enumerate(same):
        phrases = [f"{{}} has the {relation}, phrase {k}," for k in (fold, fold + 4)]
        assert text.split("\n") == phrases
