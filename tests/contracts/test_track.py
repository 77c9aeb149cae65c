"""``Run.track`` and ``Run.inspect``: their tables against diffs, loops and planted histories."""

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from kcircuits.core.bootstrap import bootstrap_mean
from kcircuits.core.topology import Topology
from kcircuits.errors import IncomparableError, UsageError
from kcircuits.study.run import open_run
from kcircuits.study.track.core import core_of

TOPOLOGY = Topology(n_layers=6, n_heads=4)
N_EDGES = 40
EPOCHS = ("ep0", "ep1", "ep2", "ep3")


@pytest.fixture(scope="module")
def known():
    """40 facts of 20 people: known before, acquired at ep1, flickering, never known."""
    known = np.ones((40, 4), dtype=bool)
    known[4:28, 0] = False
    known[28:32] = [False, True, False, True]
    known[32:36] = False
    return known


@pytest.fixture(scope="module")
def run(synthetic, known, tmp_path_factory):
    facts = synthetic.make_facts(40, 8)
    epochs, _ = synthetic.make_epochs(
        facts, TOPOLOGY, n_edges=N_EDGES, steps=[0.4, 0.1, 0.0], known=known, noise=0.4
    )
    folder = tmp_path_factory.mktemp("runs") / "run"
    return open_run(synthetic.write_run(folder, facts, epochs))


@pytest.fixture(scope="module", params=["edge", "node"])
def track(request, run):
    return run.track(level=request.param)


def row_of(rows, **wanted):
    (row,) = [row for row in rows if all(row[k] == v for k, v in wanted.items())]
    return row


def test_turnover_of_each_step_is_that_of_the_diff(run, track):
    for start, stop in pairwise(EPOCHS):
        (expected,) = run.diff(start, stop, level=track.level).rows
        row = row_of(track.rows, epoch=stop)
        assert row["compared"] == expected["facts"]
        for name in ("turnover", "turnover_low", "turnover_high"):
            assert (row[name] is None) == (expected[name] is None)
            assert row[name] is None or row[name] == pytest.approx(expected[name], rel=1e-9)
    assert row["turnover_low"] is not None  # the later steps have 10 entities


def test_births_and_deaths_are_what_the_diff_says_of_each_fact(run, track):
    for start, stop in pairwise(EPOCHS):
        diff = run.diff(start, stop, level=track.level)
        counts = [
            (getattr(one.overlap, f"{track.level}s") >= 0.5).sum(1)
            for one in diff.fact_diffs
            if one.is_compared
        ]
        row = row_of(track.rows, epoch=stop)
        found = [row[name] for name in ("births", "deaths", "kept")]
        np.testing.assert_allclose(found, np.mean(counts, axis=0))


def test_means_and_intervals_are_over_the_facts_known(track, known):
    for t, epoch in enumerate(EPOCHS):
        row = row_of(track.rows, epoch=epoch)
        assert (row["facts"], row["known"]) == (40, known[:, t].sum())
        members = [one for i, one in enumerate(track.facts) if known[i, t]]
        subjects = np.array([one.fact.subject for one in members])
        for name, read in (
            ("entropy", lambda c, t=t: c.structure.entropy[t]),
            ("depth", lambda c, t=t: c.structure.depth[t]),
            ("present", lambda c, t=t: c.items(track.level).in_both[t].sum()),
            ("hubs", lambda c, t=t: c.hubs.in_both[t].sum()),
        ):
            values = np.array([read(one.circuits) for one in members], dtype=float)
            expected = bootstrap_mean(values, subjects, seed=0)
            assert row[name] == pytest.approx(float(expected.estimate))
            ends = row[f"{name}_low"], row[f"{name}_high"]
            if len(set(subjects)) < 5:
                assert ends == (None, None)
            else:
                assert ends == pytest.approx((float(expected.low), float(expected.high)))
        noise = np.mean([one.circuits.entropy_apart[t, t] for one in members])
        assert row["entropy_noise"] == pytest.approx(noise)


def test_changes_are_paired_within_facts_known_at_both_epochs(track, known):
    for t in (1, 2, 3):
        row = row_of(track.rows, epoch=EPOCHS[t])
        members = [
            one.circuits for i, one in enumerate(track.facts) if known[i, t] and known[i, t - 1]
        ]
        assert row["compared"] == len(members)
        for name in ("entropy", "depth"):
            values = [getattr(c.structure, name) for c in members]
            assert row[f"{name}_change"] == pytest.approx(
                np.mean([v[t] - v[t - 1] for v in values])
            )
            moved = np.mean([getattr(c, f"{name}_apart")[t - 1, t] for c in members])
            assert row[f"{name}_moved"] == pytest.approx(moved)
        swapped = np.mean([c.swapped.born[t - 1] for c in members])
        assert row["births_swapped"] == pytest.approx(swapped)
    first = row_of(track.rows, epoch="ep0")
    assert first["compared"] is first["births"] is first["turnover"] is None


def test_lifetimes_are_those_of_all_facts_together(track):
    for labels, read in (("observed", lambda c: c.spells), ("swapped", lambda c: c.swapped.spells)):
        rows = [row for row in track.life_table if row["labels"] == labels]
        at_risk = sum(read(one.circuits).at_risk[0] for one in track.facts)
        died = sum(read(one.circuits).ended[0] for one in track.facts)
        for row in rows:
            k = row["k"] - 1
            assert (row["at_risk"], row["died"]) == (at_risk[k], died[k])
            assert row["hazard"] == pytest.approx(died[k] / at_risk[k])
        assert [row["k"] for row in rows] == [k + 1 for k in range(3) if at_risk[k]]
        survival = np.cumprod([1 - row["hazard"] for row in rows])
        np.testing.assert_allclose([row["survival"] for row in rows], survival)
    first = row_of(track.life_table, labels="observed", k=1)
    assert first["hazard_low"] <= first["hazard"] <= first["hazard_high"]


def test_the_planted_move_shows_at_its_step(track):
    births = [row["births"] for row in track.rows[1:]]
    turnover = [row["turnover"] for row in track.rows[1:]]
    assert births[0] > 2 * births[1] > births[2]
    assert turnover[0] > turnover[1] > 0.02
    assert abs(turnover[2]) < turnover[1] / 2 or track.level == "node"
    assert births[0] > 1.5 * track.rows[1]["births_swapped"]


def test_knowledge_groups_and_settling_follow_acquisition(run, known):
    track = run.track(by="knowledge")
    sizes = {name: len(members) for name, members in track.groups.items()}
    assert sizes == {"acquired": 28, "known before": 8, "never known": 4}
    never = [row for row in track.rows if row["stratum"] == "never known"]
    assert {row["known"] for row in never} == {0}
    assert all(row["entropy"] is row["births"] is None for row in never)
    for group, start in (("acquired", 1), ("known before", 0), ("never known", 0)):
        rows = [row for row in track.settling if row["group"] == group]
        members = [one for one in track.facts if one.knowledge == group]
        changes = {}
        for row in rows:
            t = start + row["step"]
            counted = []
            for one in members:
                c = one.circuits
                at_both = known[track.facts.index(one), t : t + 2].all() or group == "never known"
                if at_both:
                    counted.append(one.fact.id)
                    changes[one.fact.id, row["step"]] = (
                        c.edges.born[t].sum() + c.edges.died[t].sum()
                    )
            assert row["facts"] == len(counted) > 0
            total = np.mean([changes[fact, row["step"]] for fact in counted])
            assert row["births"] + row["deaths"] == pytest.approx(total)
            pairs = [
                changes[fact, 0] - changes[fact, row["step"]]
                for fact in counted
                if (fact, 0) in changes
            ]
            assert row["fewer"] == pytest.approx(np.mean(pairs))
    acquired = [row for row in track.settling if row["group"] == "acquired"]
    assert [row["step"] for row in acquired] == [0, 1]
    assert acquired[1]["facts"] == 24  # those that flicker are known at no two epochs in a row
    few = [row["turnover_low"] for row in track.settling if row["entities"] < 10]
    assert few
    assert set(few) == {None}


def test_trends_are_from_the_first_to_the_last_known_epoch(track, known):
    row = row_of(track.trends, measure="depth")
    changes, moved = [], []
    for i, one in enumerate(track.facts):
        at = np.flatnonzero(known[i])
        if len(at) > 1:
            depth = one.circuits.structure.depth
            changes.append(depth[at[-1]] - depth[at[0]])
            moved.append(one.circuits.depth_apart[at[0], at[-1]])
    assert row["facts"] == len(changes) == 36
    assert row["change"] == pytest.approx(np.mean(changes))
    assert row["moved"] == pytest.approx(np.mean(moved))
    assert row["change_low"] < row["change"] < row["change_high"]


def test_layers_hold_the_share_of_each_layers_edges(track, known):
    mask = TOPOLOGY.edge_mask
    for layer in (-1, 0, 5):
        senders = TOPOLOGY.forward_layers == layer
        total = mask[senders].sum()
        row = row_of(track.layers, epoch="ep2", layer=layer)
        shares = []
        for i, one in enumerate(track.facts):
            if known[i, 2]:
                edges = one.circuits.candidates[one.circuits.edges.plain[2]]
                shares.append(senders[edges // TOPOLOGY.n_backward].sum() / total)
        assert row["ratio"] == pytest.approx(np.mean(shares))
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    counts = Counter(row["epoch"] for row in track.layers)
    assert counts == dict.fromkeys(EPOCHS, TOPOLOGY.n_layers + 1)


def test_core_sizes_and_items_equal_loops(track, known):
    for share, since in ((1.0, 0), (0.6, 1), (1.0, 2)):
        sizes, names = [], Counter()
        for i, one in enumerate(track.facts):
            at = [t for t in range(since, 4) if known[i, t]]
            if len(at) < 2:
                continue
            there = one.circuits.items(track.level).in_both[at].sum(0) >= share * len(at) - 1e-9
            sizes.append(there.sum())
            for place in np.flatnonzero(there):
                if track.level == "edge":
                    pair = divmod(int(one.circuits.candidates[place]), TOPOLOGY.n_backward)
                    names[TOPOLOGY.edge_name(*pair)] += 1
                else:
                    names[TOPOLOGY.nodes[place + 1]] += 1
        (row,) = track.core(share=share, since=EPOCHS[since])
        assert (row["facts"], row["left_out"]) == (len(sizes), 40 - len(sizes))
        assert row["size"] == pytest.approx(np.mean(sizes))
        assert share < 1 or row["size"] < row["per_epoch"]
        items = track.core_items(share=share, since=EPOCHS[since])
        assert {item["item"]: item["facts"] for item in items} == names
        assert [item["facts"] for item in items] == sorted(names.values(), reverse=True)


def test_hubs_and_roles_count_facts(track, known):
    for row in track.hubs[:3]:
        node = TOPOLOGY.nodes.index(row["node"]) - 1
        for t in range(4):
            members = [one.circuits for i, one in enumerate(track.facts) if known[i, t]]
            assert row["hub_in"][t] == sum(c.hubs.in_both[t, node] for c in members)
            degree = np.mean([c.structure.in_degree[t, node + 1] for c in members])
            assert row["in_degree"][t] == pytest.approx(degree, abs=1e-3)
    for row in track.roles[:5]:
        node = TOPOLOGY.nodes.index(row["node"]) - 1
        for t in range(3):
            pairs = [
                one.circuits for i, one in enumerate(track.facts) if known[i, t] and known[i, t + 1]
            ]
            for name, part, change in (
                ("joined", "nodes", "born"),
                ("left", "nodes", "died"),
                ("became_hub", "hubs", "born"),
                ("stopped_hub", "hubs", "died"),
            ):
                flags = [getattr(getattr(c, part), change)[t, node] for c in pairs]
                assert row[name][t] == sum(flags)
    assert sum(map(sum, (row["entered_core"] for row in track.roles))) > 0


def test_rows_by_stratum_are_those_of_its_facts_alone(run):
    whole = run.track(by="frequency")
    ids = [fact.id for fact in run.facts if fact.strata["frequency"] == "low"]
    alone = run.track(facts=ids)
    for row, other in zip(
        [row for row in whole.rows if row["stratum"] == "low"], alone.rows, strict=True
    ):
        assert {**row, "stratum": "all"} == other


def test_results_do_not_depend_on_the_other_facts_and_the_seed_moves_noise_alone(run):
    whole, alone = run.track(), run.track(facts=["fact-005"])
    ours, theirs = whole["fact-005"].circuits, alone.facts[0].circuits
    np.testing.assert_array_equal(ours.swapped.born, theirs.swapped.born)
    np.testing.assert_array_equal(ours.edges.in_both, theirs.edges.in_both)
    other = run.track(seed=1)
    assert [row["births"] for row in other.rows] == [row["births"] for row in whole.rows]
    assert [r["births_swapped"] for r in other.rows] != [r["births_swapped"] for r in whole.rows]


def test_some_epochs_make_steps_between_them(run):
    track = run.track(epochs=["ep3", "first"])
    assert track.epochs == ("ep0", "ep3")
    (expected,) = run.diff("ep0", "ep3").rows
    assert track.rows[1]["turnover"] == pytest.approx(expected["turnover"])


def test_the_document_is_json_and_says_what_was_left_out(track):
    document = track.to_json(top=2)
    assert json.loads(json.dumps(document, allow_nan=False))["schema"] == "kcircuits.track/1"
    assert document["entropy_max"] == pytest.approx(math.log(N_EDGES))
    assert [len(document[name]) for name in ("hubs", "roles", "core_items")] == [2, 2, 2]
    assert document["left_out"] == {}


def test_a_missing_cell_and_a_single_prompt_leave_a_fact_out_where_they_must(synthetic, tmp_path):
    facts = (*synthetic.make_facts(3, 4), *synthetic.make_facts(4, 1)[3:])
    epochs, _ = synthetic.make_epochs(facts, TOPOLOGY, n_edges=20, steps=[0.1, 0.1], noise=0.3)
    run = open_run(synthetic.write_run(tmp_path / "run", facts, epochs, batch_size=1))
    rows = {epoch: run.rows(epoch) for epoch in run.epochs}
    del rows["ep1"]["fact-001"]
    for epoch in rows:
        del rows[epoch]["fact-002"]

    class Partial(type(run)):
        def rows(self, epoch):
            return rows[epoch]

    partial = Partial(path=run.path, record=run.record, request=run.request)
    track = partial.track()
    assert [one.fact.id for one in track.facts] == ["fact-000", "fact-001"]
    assert track.left_out == {
        "fact-002": "has no cell",
        "fact-003": "has a single discovery prompt, which has no halves",
    }
    assert [row["facts"] for row in track.rows] == [2, 1, 2]
    assert [row["compared"] for row in track.rows] == [None, 1, 1]
    with pytest.raises(IncomparableError, match="no fact of run synthetic can be tracked"):
        partial.track(facts=["fact-003"])
    with pytest.raises(UsageError, match="'fact-002' has no cell"):
        track["fact-002"]


def test_identical_epochs_have_no_births_and_turnover_zero(synthetic, tmp_path):
    facts = synthetic.make_facts(4, 4)
    epochs, _ = synthetic.make_epochs(facts, TOPOLOGY, n_edges=20, steps=[], noise=0.3)
    same = {name: [replace(cell) for cell in epochs["ep0"]] for name in ("ep0", "ep1", "ep2")}
    track = open_run(synthetic.write_run(tmp_path / "run", facts, same)).track()
    for row in track.rows[1:]:
        assert row["turnover"] == row["turnover_low"] == row["turnover_high"] == 0
        assert row["births"] == row["deaths"] == row["births_swapped"] == row["hubs_swapped"] == 0
        assert row["entropy_change"] == row["depth_change"] == 0
    assert track.life_table == []
    (core,) = track.core()
    assert core["size"] == core["per_epoch"] == core["swapped"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "colour"}, "no fact has a stratum 'colour'"),
        ({"level": "layer"}, "level is 'layer'"),
        ({"epochs": ["ep9"]}, "'ep9' means no checkpoint"),
        ({"facts": ["nobody"]}, "fact 'nobody' is not in this run"),
    ],
)
def test_what_cannot_be_tracked_is_refused(run, options, message):
    with pytest.raises(UsageError, match=message):
        run.track(**options)


def test_a_core_needs_a_share_and_an_epoch_that_there_are(track):
    for share in (0, 1.5):
        with pytest.raises(UsageError, match="above 0, at most 1"):
            track.core(share=share)
    with pytest.raises(UsageError, match="'ep7' is not in this track"):
        track.core(since="ep7")


def test_inspection_gathers_one_fact(run, known):
    found = run.inspect("fact-013")
    circuits = found.one.circuits
    assert [row["known"] for row in found.rows] == known[13].tolist()
    assert found.knowledge == "acquired at ep1"
    for t, row in enumerate(found.rows):
        assert row["there"] == circuits.edges.in_both[t].sum()
        assert row["entropy"] == pytest.approx(circuits.structure.entropy[t])
    for t, row in enumerate(found.steps):
        diff = run.diff(EPOCHS[t], EPOCHS[t + 1])
        ends = {"from": EPOCHS[t], "to": EPOCHS[t + 1], "fact": "fact-013"}
        judged = row_of(run.overlap().previous.fact_rows, **ends)
        assert (row["verdict"], row["reason"]) == (judged["verdict"], judged["reason"])
        assert row["turnover"] == judged["turnover"]
        assert row["born"] == (diff["fact-013"].overlap.edges[0] >= 0.5).sum()
        assert row["died"] == (diff["fact-013"].overlap.edges[1] >= 0.5).sum()
    sizes = [max(abs(s) for s in row["scores"] if s is not None) for row in found.edges]
    assert sizes == sorted(sizes, reverse=True)
    for row in found.edges:
        u, v = TOPOLOGY.edge_index(row["edge"])
        (i,) = np.flatnonzero(circuits.candidates == u * TOPOLOGY.n_backward + v)
        words = [
            "there" if both else "gone" if gone else "half"
            for both, gone in zip(
                circuits.edges.in_both[:, i], circuits.edges.in_neither[:, i], strict=True
            )
        ]
        assert row["states"] == words
        assert row["epochs_present"] == words.count("there") > 0
        assert row["born"] == [EPOCHS[t + 1] for t in range(3) if circuits.edges.born[t, i]]
        assert row["core"] == bool(core_of(found.one, "edge")[i])
    assert {row["edge"] for row in found.changed_edges} == {
        row["edge"] for row in found.edges if row["born"] or row["died"]
    }
    assert found.core == [row for row in found.core if row_of(found.edges, edge=row)["core"]]
    assert len(found.core) == sum(row["core"] for row in found.edges) > 0
    document = json.loads(json.dumps(found.to_json(top=3), allow_nan=False))
    assert len(document["edges"]) == 3
    assert document["prompts"][0]["use"] == "discovery"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("fact-01", "fact-010, fact-011"),
        ("FACT-007", "fact-007"),
        ("Person 3", "fact-006, fact-007"),
        ("fcat-007", "fact-007"),
        ("zzz", "see `kcircuits ls facts`"),
    ],
)
def test_an_unknown_fact_is_refused_with_near_ones(run, given, hint):
    with pytest.raises(UsageError, match="is not in this run") as caught:
        run.inspect(given)
    assert hint in caught.value.hint
