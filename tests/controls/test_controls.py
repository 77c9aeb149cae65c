"""Controls pass on a run whose model knows its facts, and fail where what they expect is not so."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kcircuits.analysis.overlap.permutation import renumber_heads
from kcircuits.analysis.overlap.verdict import Verdict, Word
from kcircuits.core.manifest import Checkpoint
from kcircuits.errors import IncomparableError, NonFiniteError, UsageError
from kcircuits.lab.ground_truth import WeightsModel
from kcircuits.lab.ground_truth.moving import build_moving
from kcircuits.lab.strategies import lora
from kcircuits.lab.training.further import train_further
from kcircuits.lab.training.train import load_base
from kcircuits.lab.weight_changes import add_noise, random_head_order
from kcircuits.models import load_model
from kcircuits.study import open_run
from kcircuits.study.controls import (
    permuted_heads,
    planted_move,
    same_checkpoint,
    weight_noise,
    zero_rate,
)
from kcircuits.study.controls.bench import N_FACTS, open_bench
from kcircuits.study.controls.control import Check, Outcome, count_verdicts
from kcircuits.study.controls.registry import CONTROLS, find_controls
from kcircuits.study.head_match import match_cells, renumbered
from kcircuits.sweep import request
from tests.controls.knowing_run import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    manifest = write_run(tmp_path_factory.mktemp("knowing"))
    return open_run(manifest.parent / "runs" / "knowing")


@pytest.fixture(scope="module")
def bench(run):
    return open_bench(run)


def verdicts(outcome):
    return [check.verdict for check in outcome.checks]


@pytest.mark.parametrize("name", CONTROLS)
def test_control_passes_on_a_model_that_knows_its_facts(bench, name):
    told = []
    outcome = CONTROLS[name].run(replace(bench, advance=lambda n, *_: told.append(n)))
    assert outcome.verdict == "passed", outcome.checks
    assert set(verdicts(outcome)) == {"passed"}
    # with the clean scoring, which this copy of the bench has to do again
    uses_clean = name != "planted-move"
    n_scorings = CONTROLS[name].n_scorings + uses_clean
    assert sum(told) == n_scorings * bench.n_prompts


def test_other_seeds_pass_too(bench):
    for seed in (1, 2):
        other = replace(bench, seed=seed)
        assert permuted_heads.control(other).verdict == "passed"
        assert weight_noise.control(other).verdict == "passed"


# --- what is not so must be seen


def test_same_checkpoint_fails_where_the_second_is_another(bench, monkeypatch):
    noisy = WeightsModel(add_noise(bench.model.weights, 1e-4, 0, is_relative=True))
    monkeypatch.setattr(type(bench), "load", lambda _: noisy)
    outcome = same_checkpoint.control(bench)
    assert outcome.verdict == "failed"
    assert verdicts(outcome) == ["failed", "failed", "passed", "passed"]
    assert outcome.checks[0].measured.startswith(f"{N_FACTS} of {N_FACTS} facts differ")


def test_stored_scores_of_another_model_are_seen(bench, monkeypatch):
    noisy = WeightsModel(add_noise(bench.model.weights, 1e-3, 0, is_relative=True))
    cells = bench.cells(noisy)
    check = same_checkpoint.stored_check(bench, cells)
    assert check.verdict == "failed"
    installed = request.version
    monkeypatch.setattr(request, "version", lambda n: "1.0" if n == "torch" else installed(n))
    check = same_checkpoint.stored_check(bench, cells)
    assert check.verdict == "cannot-tell"
    assert check.reason == "the run was computed with another torch"


def alarmed(share: float, *, n_facts: int = 20, all_together: str = "no-change") -> Any:
    """A diff that calls a share of its facts changed, always the same ones."""
    words: list[Word] = ["changed" if i < share * n_facts else "no-change" for i in range(n_facts)]
    return SimpleNamespace(
        n_prompts=8,
        rows=[{"verdict": all_together}],
        fact_diffs=[
            SimpleNamespace(
                fact=SimpleNamespace(subject=str(i)),
                verdict=Verdict(word=word, reason="", high=0.1),
            )
            for i, word in enumerate(words)
        ],
    )


@pytest.mark.parametrize(
    ("diffs", "verdict"),
    [
        ([alarmed(0.1), alarmed(0)], "passed"),  # 1 of 20
        ([alarmed(0.1), alarmed(0.1)], "cannot-tell"),  # 2 of 20: as well by chance
        ([alarmed(0.1, n_facts=200)] * 2, "failed"),
        ([alarmed(0.6), alarmed(0.6)], "failed"),
        ([alarmed(0), alarmed(0, all_together="changed")], "passed"),
        ([alarmed(0, all_together="changed")] * 2, "failed"),
        ([alarmed(0.6, n_facts=8)] * 2, "cannot-tell"),  # no interval of so few entities
        ([], "cannot-tell"),
    ],
)
def test_alarms_between_prompts_of_one_checkpoint(diffs, verdict):
    assert same_checkpoint.halves_check(diffs).verdict == verdict


def test_halves_that_differ_are_called_changed(bench):
    """The twin is no test that cannot fail: prompts of two circuits are told apart."""
    stored = bench.stored()
    moved, _ = planted_move.move_edges(stored, 0.5, np.random.default_rng(0))
    first, second = np.arange(4), np.arange(4, 8)
    diff = bench.diff(
        same_checkpoint.with_prompts(stored, first), same_checkpoint.with_prompts(moved, second)
    )
    n_changed, n_tested, obstacle = count_verdicts(diff)
    assert not obstacle
    assert n_changed > same_checkpoint.MAX_ALARMS * n_tested


def test_zero_rate_fails_at_any_other_rate(bench, monkeypatch):
    monkeypatch.setattr(zero_rate, "RATE", 1e-6)
    outcome = zero_rate.control(bench)
    assert outcome.verdict == "failed"
    assert verdicts(outcome)[:2] == ["failed", "failed"]


def test_permuted_heads_fails_where_the_heads_stay(bench, monkeypatch):
    monkeypatch.setattr(permuted_heads, "permute_heads", lambda weights, _: weights)
    outcome = permuted_heads.control(bench)
    logits, changed, layers, heads, undone = outcome.checks
    assert outcome.verdict == "failed"
    assert logits.is_met  # the model is the same indeed
    assert not changed.is_met
    assert not layers.is_met
    assert layers.measured == "in 0; wrong in layers [0, 1, 2]"
    assert not heads.is_met
    assert undone.is_met


def test_permuted_heads_fails_where_the_function_changes(bench, monkeypatch):
    """Query heads renumbered, but not what they write."""
    whole = permuted_heads.permute_heads

    def torn(weights, order):
        permuted = whole(weights, order)
        layers = zip(permuted.attention, weights.attention, strict=True)
        return replace(permuted, attention=tuple(replace(new, o=old.o) for new, old in layers))

    monkeypatch.setattr(permuted_heads, "permute_heads", torn)
    outcome = permuted_heads.control(bench)
    assert not outcome.checks[0].is_met
    assert outcome.verdict == "failed"


def test_wrongly_undone_heads_leave_a_change(bench):
    order = random_head_order(bench.model.weights, np.random.default_rng(0))
    wrong = [renumbered(cell, order) for cell in bench.clean]
    match = match_cells(bench.clean, wrong, bench.run.facts)
    assert match.is_permuted.all()
    right = [renumbered(cell, match.undoing) for cell in wrong]
    for cell, before in zip(right, bench.clean, strict=True):
        np.testing.assert_array_equal(cell.candidates, before.candidates)
        np.testing.assert_array_equal(cell.prompt_scores, before.prompt_scores)
    # and the cells follow their edges
    cell = bench.clean[0]
    edges = renumber_heads(cell.candidates, order, cell.topology)
    score = dict(zip(edges.tolist(), cell.prompt_scores.T.tolist(), strict=True))
    assert (
        dict(zip(wrong[0].candidates.tolist(), wrong[0].prompt_scores.T.tolist(), strict=True))
        == score
    )


def test_noise_out_of_order_fails():
    def rows(*intervals):
        return [
            {"size": i, "turnover": (low + high) / 2, "turnover_low": low, "turnover_high": high}
            for i, (low, high) in enumerate(intervals)
        ]

    assert weight_noise.order_check(rows((0, 0.1), (0.05, 0.2), (0.3, 0.4))).is_met
    # a tie: the second lies lower, within the first's interval
    assert weight_noise.order_check(rows((0.1, 0.2), (0.05, 0.15), (0.3, 0.4))).is_met
    fallen = weight_noise.order_check(rows((0, 0.1), (0.3, 0.4), (0.15, 0.2)))
    assert not fallen.is_met
    assert fallen.measured.endswith("2 lies below 1")
    assert weight_noise.order_check(rows((0, 0.1))).verdict == "cannot-tell"


def test_noise_that_does_not_grow_fails(bench, monkeypatch):
    monkeypatch.setattr(weight_noise, "SIZES", (0.4, 0.05))
    assert verdicts(weight_noise.control(bench))[1:] == ["failed", "failed"]


def test_noise_that_is_not_added_fails(bench, monkeypatch):
    monkeypatch.setattr(weight_noise, "add_noise", lambda weights, *_, **__: weights)
    assert verdicts(weight_noise.control(bench)) == ["passed", "passed", "failed"]


# --- the planted move


@pytest.fixture(scope="module")
def moving():
    return build_moving(3, n_epochs=3, moves_at=2, n_facts=12, n_prompts=8, noise=0.001)


@pytest.fixture(scope="module")
def steps(moving):
    return planted_move.moving_steps(moving)


def test_the_planted_move_is_found_at_its_epoch(steps, moving):
    assert planted_move.steps_check(steps, moving.moves_at).is_met
    assert not planted_move.steps_check(steps, 1).is_met
    found = planted_move.found_in_model(steps[1], moving)
    assert found.precision > 0.95
    assert found.recall > 0.85


def test_a_hidden_move_is_missed():
    hidden = build_moving(0, n_epochs=3, moves_at=3, n_facts=12, n_prompts=8, noise=0.001)
    steps = planted_move.moving_steps(hidden)
    assert not planted_move.steps_check(steps, 2).is_met
    assert not planted_move.edges_check(planted_move.found_in_model(steps[1], hidden)).is_met


def test_edges_of_another_move_are_not_taken_for_right(steps, moving):
    wrong = replace(moving, before=moving.after, after=moving.before)
    found = planted_move.found_in_model(steps[1], wrong)
    assert found.n_found > 0
    assert found.n_right == 0
    assert not planted_move.edges_check(found).is_met


def test_edges_moved_in_real_scores_change_places(bench):
    stored = bench.stored(only_known=True)
    moved, edges = planted_move.move_edges(stored, 0.2, np.random.default_rng(0))
    for before, after in zip(stored, moved, strict=True):
        gained, lost = edges[before.fact_id]
        size = np.abs(before.prompt_scores.mean(0))
        top = before.candidates[np.argsort(-size)[: before.n_edges]]
        assert len(lost) == round(0.2 * before.n_edges)
        assert set(lost) <= set(top)
        assert not set(gained) & set(top)
        columns = [
            dict(zip(cell.candidates.tolist(), cell.prompt_scores.T.tolist(), strict=True))
            for cell in (before, after)
        ]
        expected = dict(columns[0])
        for new, old in zip(gained.tolist(), lost.tolist(), strict=True):
            expected[new], expected[old] = columns[0][old], columns[0][new]
        assert columns[1] == expected


def test_a_move_that_is_not_in_the_scores_is_missed(bench):
    stored = bench.stored(only_known=True)
    _, edges = planted_move.move_edges(stored, 0.2, np.random.default_rng(0))
    diff = bench.diff(stored, stored)
    assert not planted_move.facts_check(diff).is_met
    assert not planted_move.edges_check(planted_move.found_in_scores(diff, edges, stored)).is_met


def test_too_few_prompts_cannot_tell(bench):
    few = same_checkpoint.with_prompts(bench.stored(), np.arange(3))
    moved, _ = planted_move.move_edges(few, 0.2, np.random.default_rng(0))
    check = planted_move.facts_check(bench.diff(few, moved))
    assert check.verdict == "cannot-tell"
    assert check.reason == "3 discovery prompts; at least 4 are needed"


def test_both_planted_models_answer_the_prompts(moving):
    """Without noise each epoch's circuit is exactly what was planted, and the facts are known."""
    still = build_moving(
        3, n_epochs=2, moves_at=1, n_facts=4, n_prompts=2, noise=0.0, dtype=torch.float64
    )
    (step,) = planted_move.moving_steps(still)
    assert still.before.sum() == still.after.sum()
    assert all(one.known == (True, True) for one in step.fact_diffs)
    for one in step.fact_diffs:
        for epoch, circuit in enumerate((still.before, still.after)):
            carried = one.candidates[np.abs(one.scores[epoch]) > 1e-12]
            assert set(carried) == set(np.flatnonzero(circuit))


# --- the bench


def test_bench_takes_known_facts_one_per_subject_first(run, bench):
    assert len(bench.facts) == N_FACTS
    record = run.request
    subjects = ["s", "s", "t", "u"]
    facts = tuple(
        replace(one, fact=replace(one.fact, subject=subjects[i % 4]))
        for i, one in enumerate(record.facts)
    )
    crowded = replace(run, request=replace(record, facts=facts))
    chosen = open_bench(crowded).facts
    counts = np.unique([one.fact.subject for one in chosen], return_counts=True)[1]
    assert counts.max() - counts.min() <= 1
    assert [one.id for one in open_bench(run, fact_ids=["f3", "f1"]).facts] == ["f1", "f3"]


def test_bench_refuses_facts_that_are_not_known_and_methods_that_train(run):
    with pytest.raises(IncomparableError, match="no fact of those chosen is known at ep0"):
        open_bench(run, fact_ids=[])
    settings = {**run.request.settings, "method": "edge-pruning"}
    trained = replace(run, request=replace(run.request, settings=settings))
    with pytest.raises(UsageError, match="trains its circuits"):
        open_bench(trained)


def test_scores_that_are_not_finite_name_the_fact(bench):
    broken = replace(
        bench.model.weights, unembed=torch.full_like(bench.model.weights.unembed, torch.nan)
    )
    with pytest.raises(NonFiniteError):
        bench.cells(WeightsModel(broken, "broken"))


def test_controls_are_found_by_name_and_in_order():
    assert [c.name for c in find_controls([])] == list(CONTROLS)
    names = ["weight-noise", "same-checkpoint"]
    assert [c.name for c in find_controls(names)] == names[::-1]
    with pytest.raises(UsageError, match="there is no control 'nope'"):
        find_controls(["nope"])


def test_an_outcome_is_as_bad_as_its_worst_check():
    good, open_, bad = (
        Check(expected="", measured="", is_met=is_met) for is_met in (True, None, False)
    )
    assert Outcome(did="", checks=[good]).verdict == "passed"
    assert Outcome(did="", checks=[good, open_]).verdict == "cannot-tell"
    assert Outcome(did="", checks=[open_, bad, good]).verdict == "failed"


# --- training further


@pytest.mark.parametrize("lr", [0.0, 1e-2])
def test_an_adapter_is_trained_further_as_an_adapter(run, tmp_path, lr):
    base = run.path.parents[1] / "ep0"
    model, tokenizer = load_base(base)
    adapted = lora.prepare(model, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "further").mkdir()
    lora.save(adapted, base, tmp_path / "adapter", "float32")
    tokenizer.save_pretrained(tmp_path / "adapter")
    start = Checkpoint(id="ep1", path=base, adapter=tmp_path / "adapter", epoch=1.0)
    texts = ["a0 s1 b0 u1", "a1 s2 b1 u2"]
    end = train_further(start, tokenizer, texts, tmp_path / "further", lr=lr)
    assert (end.path, end.adapter) == (base, tmp_path / "further")
    before, after = (
        dict(load_model(replace(c, sha256=None)).hooked.named_parameters()) for c in (start, end)
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert bool(moved) == (lr > 0)
    assert not any("mlp" in name for name in moved)  # the base stays
