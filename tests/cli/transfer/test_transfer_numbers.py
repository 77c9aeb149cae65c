"""The numbers of ``kcircuits transfer`` are those of the Python functions, pair by pair."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kcircuits as kc
from kcircuits.analysis.overlap.halves import half_members, split_halves
from kcircuits.core.random_circuits import random_circuits
from tests.cli.test_evaluate_verb import UNKNOWN
from tests.cli.transfer.conftest import EPOCHS, N_EDGES, row_of


def numbers(values: list[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values])


def test_every_pair_equals_an_evaluation_of_its_own(
    told: dict[str, Any], models: dict[str, Any], batch: Any, circuits: dict[str, kc.Circuits]
) -> None:
    """The slow twin: for each two epochs ``kc.evaluate`` of one's circuits on the other's model."""
    assert told["from"] == told["to"] == list(EPOCHS)
    for s, source in enumerate(EPOCHS):
        for t, target in enumerate(EPOCHS):
            judged = {k: kc.evaluate(models[target], batch, circuits[source], k=k) for k in (1, 10)}
            for row, name in zip(told["facts"], judged[1].fact_ids, strict=True):
                one = judged[1].row(name)
                assert row["fact"] == name
                is_gated = math.isnan(one["faithfulness"])
                assert row["is_known_to"][t] == (not is_gated)
                found = row["faithfulness"][s][t]
                assert (
                    found is None
                    if is_gated
                    else found == pytest.approx(one["faithfulness"], rel=1e-4, abs=1e-5)
                )
                assert row["metric"][s][t] == pytest.approx(one["metric"], rel=1e-4, abs=1e-5)
                assert row["target_rank"][s][t] == one["target_rank"]
                assert row["hit_at_1"][s][t] == one["hit_at_k"]
                assert row["hit_at_10"][s][t] == judged[10].row(name)["hit_at_k"]
                for end in ("clean_metric", "empty_metric"):
                    assert row[end][t] == pytest.approx(one[end], rel=1e-4, abs=1e-5)
    changed = [row["faithfulness"][0][1] != row["faithfulness"][1][1] for row in told["facts"][:5]]
    assert sum(changed) >= 3  # else the twin could not tell rows from columns


def test_means_and_losses_are_of_facts_known_at_both(
    told: dict[str, Any], models: dict[str, Any], batch: Any, circuits: dict[str, kc.Circuits]
) -> None:
    own = {e: kc.evaluate(models[e], batch, circuits[e]) for e in EPOCHS}
    assert any(known.is_gated.tolist() != own["ep0"].is_gated.tolist() for known in own.values())
    for source in EPOCHS:
        for target in EPOCHS:
            kept = ~own[source].is_gated & ~own[target].is_gated
            moved = kc.evaluate(models[target], batch, circuits[source])
            here = own[target]
            gap = (here.clean_metric - here.empty_metric)[kept]
            gained = (moved.metric - here.empty_metric)[kept]
            lost = (here.metric - moved.metric)[kept]
            row = row_of(told["rows"], **{"from": source, "to": target, "set": "ratio of means"})
            assert (row["facts"], row["gated"], row["failed"]) == (kept.sum(), (~kept).sum(), 0)
            assert row["faithfulness"] == pytest.approx(gained.sum() / gap.sum(), rel=1e-4)
            assert row["loss"] == pytest.approx(lost.sum() / gap.sum(), rel=1e-3, abs=1e-6)
            row = row_of(told["rows"], **{"from": source, "to": target, "set": "mean of ratios"})
            assert row["faithfulness"] == pytest.approx((gained / gap).mean(), rel=1e-4)
            assert row["loss"] == pytest.approx((lost / gap).mean(), rel=1e-3, abs=1e-6)
    unknown = next(row for row in told["facts"] if row["fact"] == UNKNOWN)
    assert unknown["is_known"] == unknown["is_known_to"] == [False] * 3
    assert unknown["faithfulness"][0] == [None] * 3
    assert all(value is not None for value in unknown["metric"][0])


def test_the_diagonal_is_evaluate(told: dict[str, Any], study: Path) -> None:
    run = kc.open_run(study / "runs" / "moved")
    for t, epoch in enumerate(EPOCHS):
        judged = run.evaluate(epoch, seed=3).to_json()
        found = numbers([row["faithfulness"][t][t] for row in told["facts"]])
        wanted = numbers([row["faithfulness"] for row in judged["facts"]])
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
        for set_row in judged["set"]:
            row = row_of(told["rows"], **{"from": epoch, "to": epoch, "set": set_row["set"]})
            for name in ("facts", "subjects"):
                assert row[name] == set_row[name]
            ends = [row[f"faithfulness{end}"] for end in ("", "_low", "_high")]
            assert ends == pytest.approx([set_row[n] for n in ("faithfulness", "low", "high")],
                                         rel=1e-3)  # fmt: skip
            assert [row[f"loss{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]
            assert row["loss_both_ways"] == 0


def test_random_circuits_match_the_moved_ones(
    told: dict[str, Any], models: dict[str, Any], batch: Any, circuits: dict[str, kc.Circuits]
) -> None:
    for source, target in (("ep0", "ep1"), ("ep2", "ep0")):
        drawn = [
            kc.evaluate(models[target], batch, draw).metric
            for draw in random_circuits(circuits[source], seed=3, n_draws=2, match="layer")
        ]
        here, there = (kc.evaluate(models[e], batch, circuits[e]) for e in (target, source))
        kept = ~here.is_gated & ~there.is_gated
        gained = (np.mean(drawn, axis=0) - here.empty_metric)[kept]
        gap = (here.clean_metric - here.empty_metric)[kept]
        row = row_of(told["rows"], **{"from": source, "to": target, "set": "mean of ratios"})
        assert row["random"] == pytest.approx((gained / gap).mean(), rel=1e-3, abs=1e-5)


def test_half_circuits_are_of_half_the_discovery_prompts(
    told: dict[str, Any], models: dict[str, Any], batch: Any, scores: dict[str, Any],
    circuits: dict[str, kc.Circuits],
) -> None:  # fmt: skip
    sides = [members[0].tolist() for members in half_members(split_halves(4))]
    assert sorted(sides[0] + sides[1]) == [0, 1, 2, 3]
    for epoch in EPOCHS:
        metrics = []
        for side in sides:
            found = scores[epoch]
            assert found.prompt_idx is not None
            rows = np.isin(found.prompt_idx, side)
            part = kc.EdgeScores(
                values=found.values[rows], topology=found.topology, fact_ids=found.fact_ids,
                fact_idx=found.fact_idx[rows], prompt_idx=found.prompt_idx[rows],
                provenance=found.provenance,
            )  # fmt: skip
            half = kc.select(part, n_edges=N_EDGES)
            metrics.append(kc.evaluate(models[epoch], batch, half).metric)
        own = kc.evaluate(models[epoch], batch, circuits[epoch])
        kept, gap = ~own.is_gated, own.clean_metric - own.empty_metric
        values = ((np.mean(metrics, axis=0) - own.empty_metric) / gap)[kept]
        row = row_of(told["rows"], **{"from": epoch, "to": epoch, "set": "mean of ratios"})
        assert row["half"] == pytest.approx(values.mean(), rel=1e-4)
        assert row["half_loss"] == pytest.approx(row["own"] - row["half"], abs=1e-9)


def stratum_circuit(
    scores: Any, facts: list[Any], stratum: str, without: str, known: np.ndarray
) -> np.ndarray:
    """By hand: the top n of the mean normalised scores of a stratum without one subject."""
    mean = scores.mean_by_fact()
    inside = [
        np.abs(mean.values[i]).sum() ** -1.0 * mean.values[i].astype(np.float64)
        for i, one in enumerate(facts)
        if one.strata["half"] == stratum and one.subject != without and known[i]
    ]
    total = sum(inside) / len(inside)
    found = kc.EdgeScores(
        values=total[None], topology=mean.topology, fact_ids=("all",), fact_idx=np.array([0]),
        provenance=mean.provenance,
    )  # fmt: skip
    return kc.select(found, n_edges=N_EDGES).mask[0]


def test_strata_are_judged_without_the_own_subject(
    told: dict[str, Any], study: Path, models: dict[str, Any], batch: Any, scores: dict[str, Any],
    circuits: dict[str, kc.Circuits],
) -> None:  # fmt: skip
    facts = list(kc.load_facts(study / "facts.jsonl"))
    for epoch in ("ep0", "ep2"):
        own = kc.evaluate(models[epoch], batch, circuits[epoch])
        known = ~own.is_gated
        for source in ("even", "odd"):
            masks = np.array(
                [stratum_circuit(scores[epoch], facts, source, one.subject, known) for one in facts]
            )
            moved = kc.evaluate(
                models[epoch],
                batch,
                kc.Circuits.from_mask(masks, circuits[epoch].topology, fact_ids=batch.fact_ids),
            )
            for target in ("even", "odd"):
                kept = known & np.array([one.strata["half"] == target for one in facts])
                row = row_of(
                    told["strata"],
                    **{"epoch": epoch, "from": source, "to": target, "set": "mean of ratios"},
                )
                assert row["facts"] == kept.sum()
                assert row["faithfulness"] == pytest.approx(
                    moved.faithfulness[kept].mean(), rel=1e-4
                )
                assert row["own"] == pytest.approx(own.faithfulness[kept].mean(), rel=1e-4)
                n_subjects = len(
                    {f.subject for f, k in zip(facts, known, strict=True)
                     if k and f.strata["half"] == source}
                )  # fmt: skip
                assert row["circuit_entities"] == n_subjects - (source == target)


def test_lines_follow_the_matrix(told: dict[str, Any]) -> None:
    """Before and after are its first and last row; the best one's epochs are named."""
    for line, source in (("before", "ep0"), ("after", "ep2")):
        for epoch in EPOCHS:
            for way in ("ratio of means", "mean of ratios"):
                row = row_of(told["lines"], line=line, to=epoch, set=way)
                cell = row_of(told["rows"], **{"from": source, "to": epoch, "set": way})
                assert row["chosen"] == {source: 1.0}
                assert {k: row[k] for k in cell if k in row} == {
                    k: cell[k] for k in cell if k in row
                }
    for line in ("best by knowledge", "best by faithfulness"):
        row = row_of(told["lines"], line=line, to="ep2", set="ratio of means")
        assert sum(row["chosen"].values()) == pytest.approx(1)
        assert row["faithfulness_low"] <= row["faithfulness"] <= row["faithfulness_high"]


def test_mean_ablation_depends_on_all_facts_and_is_kept_apart(scored: Path, tmp_path: Path) -> None:
    """Its constants are means over the facts judged, so other facts are other numbers."""
    root = tmp_path / "copy"
    shutil.copytree(scored, root)
    run = kc.open_run(root / "runs" / "moved")
    options: dict[str, Any] = {"sources": ["ep0"], "targets": ["ep1"], "n_draws": 0,
                               "ablation": "mean"}  # fmt: skip
    whole = run.transfer(**options)
    few = run.transfer(fact_ids=["f1", "f3", "f4"], **options)
    assert few.n_computed == 4 * 3
    at = whole.epochs["ep1"].at
    assert not np.allclose(at.empty[[1, 3, 4]], few.epochs["ep1"].at.empty)
    model = kc.load_model(kc.load_manifest(root / "checkpoints_manifest.yaml")["ep1"])
    circuits = run.evaluate("ep0").circuits
    batch = kc.tokenize(model, kc.load_facts(root / "facts.jsonl"))
    judged = kc.evaluate(model, batch, circuits, ablation="mean")
    np.testing.assert_allclose(whole.epochs["ep1"].moved[0, 0], judged.metric, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(at.empty, judged.empty_metric, rtol=1e-4, atol=1e-5)
    assert run.transfer(**options).n_computed == 0
