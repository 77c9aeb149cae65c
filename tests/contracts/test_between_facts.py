"""``Run.fact_overlap``: which facts and pairs enter, its tables, and its refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest

import kcircuits as kc
from kcircuits.core.topology import Topology
from kcircuits.errors import IncomparableError, UsageError

TOPOLOGY = Topology(n_layers=6, n_heads=4)
N_EDGES = 40


@pytest.fixture(scope="module")
def facts(synthetic):
    """32 facts of 16 people and 4 relations; each person has two of them."""
    return synthetic.make_facts(32, 8)


@pytest.fixture(scope="module")
def cells(synthetic, facts):
    return synthetic.make_related_cells(
        facts, TOPOLOGY, n_edges=N_EDGES, noise=0.5, unknown=["fact-003", "fact-020"]
    )


@pytest.fixture(scope="module")
def run(synthetic, facts, cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "related"
    return kc.open_run(synthetic.write_run(folder, facts, {"ep0": cells}))


@pytest.fixture(scope="module")
def found(run):
    return run.fact_overlap("ep0")


def write(synthetic, folder, facts, cells):
    return kc.open_run(synthetic.write_run(folder, facts, {"ep0": cells}))


def group(found, name, stratum=None):
    return next(r for r in found.rows if (r["group"], r["stratum"]) == (name, stratum))


def test_facts_of_one_relation_share_more(found):
    within, between = group(found, "within"), group(found, "between")
    assert within["chance"] < between["jaccard"] < within["jaccard"] < within["ceiling"]
    assert within["shared_low"] < within["shared"] < within["shared_high"]
    assert within["shared"] == pytest.approx(0.5, abs=0.1)
    assert between["shared"] == pytest.approx(0.2, abs=0.1)
    assert found.contrast.word == "more-alike"
    assert found.clusters.word == "clusters"
    rows = {row["label"]: row for row in found.agreements}
    assert rows["relation"]["rand"] > 0.9
    assert rows["relation"]["p"] < 0.01
    assert rows["entity"]["p"] > 0.05


def test_pairs_are_each_in_one_group(found):
    n = len(found.facts)
    assert n == 30
    rows = [row for row in found.rows if row["stratum"] is None]
    assert sum(row["pairs"] for row in rows) == n * (n - 1) // 2
    strata = [row for row in found.rows if row["stratum"] is not None]
    assert sum(row["pairs"] for row in strata) == group(found, "within")["pairs"]
    same = [(a, b) for a in found.facts for b in found.facts if a.subject == b.subject]
    assert group(found, "one-entity")["pairs"] == (len(same) - n) // 2
    assert (
        sum(row["pairs"] for row in found.strata_rows)
        == n * (n - 1) // 2 - (group(found, "one-entity")["pairs"])
    )
    by_strata = {(r["first"], r["second"]): r["shared"] for r in found.strata_rows}
    for row in strata:
        assert by_strata[row["stratum"], row["stratum"]] == pytest.approx(row["shared"])


def test_another_stratum_is_asked_within_relations(run):
    """Frequency and relation go together here: no relation has both frequencies."""
    found = run.fact_overlap("ep0", by="frequency")
    assert group(found, "within")["pairs"] == 0
    assert group(found, "one-stratum-relations")["pairs"] > 0
    assert group(found, "two-relations")["pairs"] > 0
    assert found.contrast.word == "undetermined"
    assert "no pair of facts within strata" in found.contrast.reason


def test_a_stratum_within_relations_that_does_nothing_is_found_to_do_nothing(synthetic, tmp_path):
    facts = [
        replace(fact, strata={"half": "ab"[i // 4 % 2]})
        for i, fact in enumerate(synthetic.make_facts(40, 8, facts_per_entity=1))
    ]
    cells = synthetic.make_related_cells(facts, TOPOLOGY, n_edges=N_EDGES, noise=0.4)
    found = write(synthetic, tmp_path / "r", facts, cells).fact_overlap("ep0", by="half")
    assert group(found, "within")["pairs"] + group(found, "between")["pairs"] == 4 * 45
    assert found.contrast.word == "not-more-alike"
    assert found.contrast.p > 0.05


def test_what_is_left_out_is_counted(synthetic, facts, cells, found, tmp_path):
    assert found.left_out == {"not known": ("fact-003", "fact-020")}
    short = [replace(facts[0], prompts=facts[0].prompts[:1]), *facts[1:]]
    few = replace(
        cells[0], fact_hash=short[0].content_hash, prompt_idx=cells[0].prompt_idx[:1],
        prompt_scores=cells[0].prompt_scores[:1],
    )  # fmt: skip
    run = write(synthetic, tmp_path / "r", short, [few, *cells[1:]])
    assert run.fact_overlap("ep0").left_out["fewer than 2 discovery prompts"] == ("fact-000",)


def test_prompts_are_split_by_template_whatever_their_order(
    synthetic, facts, cells, found, tmp_path
):
    """The same prompts in another order: the same numbers."""
    rng = np.random.default_rng(0)
    turned_facts, turned = [], []
    for fact, cell in zip(facts, cells, strict=True):
        order = rng.permutation(8)
        other = replace(fact, prompts=tuple(fact.prompts[i] for i in order))
        turned_facts.append(other)
        turned.append(
            replace(cell, fact_hash=other.content_hash, prompt_scores=cell.prompt_scores[order])
        )
    again = write(synthetic, tmp_path / "r", turned_facts, turned).fact_overlap("ep0")
    np.testing.assert_array_equal(again.pairs.overlaps.corrected, found.pairs.overlaps.corrected)
    assert again.n_meeting == 0


def test_pairs_that_share_templates_crosswise_are_left_out(synthetic, facts, cells, tmp_path):
    """One fact has 4 of the 8 templates of its relation: its halves are others."""
    short = replace(facts[0], prompts=facts[0].prompts[:4])
    few = replace(
        cells[0], fact_hash=short.content_hash, prompt_idx=cells[0].prompt_idx[:4],
        prompt_scores=cells[0].prompt_scores[:4],
    )  # fmt: skip
    run = write(synthetic, tmp_path / "r", [short, *facts[1:]], [few, *cells[1:]])
    found = run.fact_overlap("ep0")
    relation = [fact for fact in found.facts if fact.relation == short.relation]
    assert found.n_meeting == len(relation) - 1
    assert found.to_json()["pairs_left_out"] == found.n_meeting
    assert found.n_prompts == 4
    assert found.to_json()["facts"][0]["cluster"] is None


def test_the_document_is_json_and_draws(found):
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["schema"] == "kcircuits.overlap-facts/1"
    assert (document["epoch"], document["by"], document["level"]) == ("ep0", "relation", "edge")
    assert sorted(document["order"]) == sorted(row["fact"] for row in document["facts"])
    shared = np.array(document["shared"], dtype=float)
    np.testing.assert_array_equal(shared, shared.T)
    np.testing.assert_array_equal(np.diag(shared), 1)
    row = document["facts"][0]
    assert row["nearest_shared"] == max(value for value in document["shared"][0] if value != 1)
    assert (
        row["nearest"]
        == document["facts"][document["shared"][0].index(row["nearest_shared"])]["fact"]
    )
    figure = found.plot()
    heat = next(trace for trace in figure.data if trace.type == "heatmap")
    assert len(heat.z) == 30
    assert {trace.name for trace in figure.data if trace.type == "bar"} == {
        "birthplace", "employer", "field", "university"
    }  # fmt: skip
    place = {row["fact"]: i for i, row in enumerate(document["facts"])}
    first, second = document["order"][:2]
    assert heat.z[0][1] == document["shared"][place[first]][place[second]]
    assert first in heat.customdata[0][1]


def test_nodes_have_no_matched_chance(run):
    found = run.fact_overlap("ep0", level="node")
    row = group(found, "within")
    assert row["chance_matched"] is None
    assert row["shared_matched"] is None
    assert row["chance"] > 0.1


def test_edges_beside_chance_by_layers(found):
    row = group(found, "within")
    assert row["chance_matched"] > row["chance"]
    assert row["shared_matched"] < row["shared"]


def test_what_cannot_be_compared_is_refused(synthetic, run, facts, cells, tmp_path):
    with pytest.raises(UsageError, match="no fact has a stratum 'colour'"):
        run.fact_overlap("ep0", by="colour")
    with pytest.raises(UsageError, match="'ep9' means no checkpoint"):
        run.fact_overlap("ep9")
    with pytest.raises(UsageError, match="level is 'layer'"):
        run.fact_overlap("ep0", level="layer")
    unknown = [replace(cell, is_known=i == 0) for i, cell in enumerate(cells)]
    poor = write(synthetic, tmp_path / "a", facts, unknown)
    with pytest.raises(IncomparableError, match=r"1 facts to compare, 2 are needed .*31 not known"):
        poor.fact_overlap("ep0")
    other = [*cells[:-1], replace(cells[-1], n_edges=41)]
    mixed = write(synthetic, tmp_path / "b", facts, other)
    with pytest.raises(IncomparableError, match="budget is 40 in one cell and 41 in another"):
        mixed.fact_overlap("ep0")


def test_a_method_that_does_not_reproduce_has_no_shares(synthetic, facts, tmp_path):
    rng = np.random.default_rng(0)
    noisy = [
        synthetic._cell(
            fact, "a", TOPOLOGY, N_EDGES, rng.standard_normal((8, TOPOLOGY.n_edges)), is_known=True
        )
        for fact in facts
    ]
    found = write(synthetic, tmp_path / "r", facts, noisy).fact_overlap("ep0")
    assert group(found, "within")["shared"] is None
    assert "ceiling too low" in group(found, "within")["reason"]
    assert found.contrast.word == found.clusters.word == "undetermined"
    json.dumps(found.to_json(), allow_nan=False)
