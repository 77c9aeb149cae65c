"""Sweeps: all that is asked and nothing twice, whatever happens in between."""

import importlib.util
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kcircuits.discovery import METHODS
from kcircuits.errors import (
    CheckpointError,
    IncomparableError,
    StoreBusyError,
    StoreCorruptError,
    UsageError,
)
from kcircuits.io.store import Store
from kcircuits.study import open_run
from kcircuits.sweep.compute import LateCompute
from kcircuits.sweep.local import run_local
from kcircuits.sweep.plan import preview
from kcircuits.sweep.request import choose_facts, make_settings

SCRIPT = Path(__file__).with_name("fake_sweep.py")
_spec = importlib.util.spec_from_file_location("fake_sweep", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)


def sweep(folder: Path, request=None, compute=None):
    return run_local(
        request or fake.make_request(folder),
        folder / "run",
        compute or fake.FakeCompute(),
        hash_of=fake.hash_of,
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_sweep_fills_the_store_and_the_run_reads_it(tmp_path: Path) -> None:
    result = sweep(tmp_path)
    assert (result.n_cells, result.n_done, result.n_computed, result.n_failed) == (10, 10, 10, 0)
    run = open_run(tmp_path / "run")
    assert run.epochs == ("ep0", "ep1")
    assert run.fact_ids == ("f0", "f1", "f2", "f3", "f4")
    assert run.facts == fake.make_request(tmp_path).facts
    assert (run.method, run.n_edges, run.name) == ("eap-ig-inputs", 4, "fake")
    cells = run.cells("last", ["f3", "f1"], dense=True)
    assert [cell.fact_id for cell in cells] == ["f3", "f1"]
    assert [cell.is_known for cell in cells] == [True, False]
    cell = cells[0]
    assert cell.values["faithfulness"] is None
    assert cell.values["metric"] == 0.5
    assert cell.values["rank"] == 2.5
    assert cell.prompt_idx.tolist() == [0, 2, 4, 6]
    assert cell.mean is not None
    np.testing.assert_array_equal(
        cell.mean.reshape(-1)[cell.candidates], cell.prompt_scores.mean(0)
    )
    assert run.cells("ep0")[3].checkpoint != cell.checkpoint


def test_second_run_makes_no_model(tmp_path: Path) -> None:
    sweep(tmp_path)
    before, request = files(tmp_path), fake.make_request(tmp_path)

    def refuse() -> Any:
        pytest.fail("nothing is due")

    result = run_local(request, tmp_path / "run", LateCompute(refuse), hash_of=fake.hash_of)
    assert (result.n_done, result.n_computed) == (10, 0)
    assert files(tmp_path) == before


def test_more_epochs_and_facts_extend_the_run(tmp_path: Path) -> None:
    whole = fake.make_request(tmp_path, n_checkpoints=3, n_facts=6)
    part = replace(whole, checkpoints=whole.checkpoints[:1], facts=whole.facts[:4])
    sweep(tmp_path, part)
    compute = fake.FakeCompute()
    assert sweep(tmp_path, whole, compute).n_computed == 2 + 6 + 6
    assert compute.loads == ["ep0", "ep1", "ep2"]
    assert sweep(tmp_path, part).n_computed == 0
    run = open_run(tmp_path / "run")
    assert (len(run.epochs), len(run.fact_ids)) == (3, 6)
    assert len(run.cells("ep2")) == 6


def test_batches_follow_from_the_request_not_from_what_remains(tmp_path: Path) -> None:
    sweep(tmp_path)
    before = files(tmp_path)
    for file in sorted((tmp_path / "run" / "store" / "shards").iterdir())[:3]:
        file.unlink()
    compute = fake.FakeCompute()
    sweep(tmp_path, compute=compute)
    assert set(compute.batches) <= {("f0", "f1"), ("f2", "f3"), ("f4",)}
    assert files(tmp_path) == before


@pytest.mark.parametrize("n", [2, 3, 6, 9, 10, 15, 24])
def test_killed_sweep_resumes_to_the_same_bytes(tmp_path: Path, n: int) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    sweep(tmp_path / "whole")
    command = [sys.executable, str(SCRIPT), str(tmp_path / "killed"), str(n)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    shards = tmp_path / "killed" / "run" / "store" / "shards"
    n_kept = len(list(shards.glob("*.safetensors"))) if shards.exists() else 0
    compute = fake.FakeCompute()
    sweep(tmp_path / "killed", compute=compute)
    assert len(compute.batches) == 6 - n_kept
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_interrupt_keeps_what_is_committed(tmp_path: Path) -> None:
    compute = fake.FakeCompute()

    def interrupt() -> None:
        if len(compute.batches) == 4:
            raise KeyboardInterrupt

    compute.before_batch = interrupt
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, compute=compute)
    assert len(Store(tmp_path / "run" / "store").batches) == 4
    assert sweep(tmp_path).n_computed == 2 + 1


def test_checkpoint_that_does_not_load_leaves_the_others_alone(tmp_path: Path) -> None:
    request = fake.make_request(tmp_path, n_checkpoints=4)
    (tmp_path / "ep1.txt").write_text("broken")
    (tmp_path / "ep2.txt").unlink()
    told = []
    result = run_local(
        request,
        tmp_path / "run",
        fake.FakeCompute(),
        hash_of=fake.hash_of,
        on_failure=lambda epoch, error: told.append((epoch, error.message)),
    )
    assert told == [("ep2", "no such checkpoint"), ("ep1", "tensor wte is missing")]
    assert (result.n_done, result.n_cells) == (10, 20)
    run = open_run(tmp_path / "run")
    assert len(run.cells("ep3")) == 5
    with pytest.raises(IncomparableError, match="epoch ep1 has 0 of 5 facts") as caught:
        run.cells("ep1")
    assert "kcircuits run --epochs ep1" in str(caught.value)


def test_checkpoint_that_changes_meanwhile_is_not_committed(tmp_path: Path) -> None:
    compute = fake.FakeCompute()

    def change() -> None:
        if len(compute.batches) == 1:
            (tmp_path / "ep0.txt").write_text("other weights")

    compute.before_batch = change
    result = sweep(tmp_path, compute=compute)
    assert isinstance(result.failures["ep0"], CheckpointError)
    assert "changed while it was used" in result.failures["ep0"].message
    assert result.n_done == 2 + 5


def test_checkpoint_with_other_tokens_is_refused(tmp_path: Path) -> None:
    request = fake.make_request(tmp_path)
    (tmp_path / "ep1.txt").write_text("other tokenizer")
    result = sweep(tmp_path, request)
    assert list(result.failures) == ["ep1"]
    assert "token ids for fact 'f0'" in result.failures["ep1"].message


def test_nan_makes_a_failed_cell_that_says_where(tmp_path: Path) -> None:
    compute = fake.FakeCompute()
    compute.nan_fact = "f2"
    result = sweep(tmp_path, compute=compute)
    assert (result.n_done, result.n_failed) == (10, 2)
    run = open_run(tmp_path / "run")
    assert [cell.fact_id for cell in run.cells("ep0")] == ["f0", "f1", "f3", "f4"]
    row = run.rows("ep0")["f2"]
    assert row.message == f"{fake.TOPOLOGY.edge_name(0, 3)}: the score on prompt 0 is nan"
    with pytest.raises(IncomparableError, match="f2 has no numbers at ep0"):
        run.cells("ep0", ["f2"])


def test_large_models_keep_the_largest_edges_and_node_sums(tmp_path: Path, monkeypatch) -> None:
    sweep(tmp_path)
    dense = open_run(tmp_path / "run").cells("ep0", dense=True)[0].mean
    assert dense is not None
    monkeypatch.setattr("kcircuits.sweep.cells.MAX_DENSE_EDGES", 10)
    monkeypatch.setattr("kcircuits.sweep.cells.MIN_SPARSE_EDGES", 20)
    monkeypatch.setattr("kcircuits.sweep.cells.SPARSE_WIDTH", 2)
    (tmp_path / "large").mkdir()
    sweep(tmp_path / "large")
    cell = open_run(tmp_path / "large" / "run").cells("ep0", dense=True)[0]
    assert cell.mean is None
    assert cell.sparse_mean is not None
    flat = dense.reshape(-1)
    assert cell.sparse_mean.index.tolist() == sorted(np.argsort(-abs(flat))[:20].tolist())
    np.testing.assert_array_equal(cell.sparse_mean.values, flat[cell.sparse_mean.index])
    np.testing.assert_array_equal(cell.sparse_mean.forward_marginals, abs(dense).sum(1))
    np.testing.assert_array_equal(cell.sparse_mean.backward_marginals, abs(dense).sum(0))


def test_other_settings_are_kept_apart(tmp_path: Path) -> None:
    request = fake.make_request(tmp_path)
    sweep(tmp_path, request)
    other = replace(request, settings=replace(request.settings, n_edges=3))
    assert sweep(tmp_path, other).n_computed == 10
    assert open_run(tmp_path / "run").cells("ep0")[0].n_edges == 3
    assert sweep(tmp_path, request).n_computed == 0
    assert open_run(tmp_path / "run").cells("ep0")[0].n_edges == 4


def test_results_beside_the_main_ones_do_not_hide_them(tmp_path: Path) -> None:
    """A side request is found by its method; the main one is what a run opens with."""
    main = fake.make_request(tmp_path)
    side = replace(
        main, settings=make_settings("eap", n_edges=3), facts=main.facts[1:3],
        checkpoints=main.checkpoints[1:],
    )  # fmt: skip
    folder = tmp_path / "run"

    def compute(request, *, is_main):
        compute = fake.FakeCompute()
        return run_local(request, folder, compute, hash_of=fake.hash_of, is_main=is_main)

    sweep(tmp_path, main)
    assert compute(side, is_main=False).n_computed == 2
    run = open_run(folder)
    assert (run.method, run.fact_ids) == ("eap-ig-inputs", ("f0", "f1", "f2", "f3", "f4"))
    (beside,) = run.beside
    assert beside == open_run(folder, method="eap")
    assert (beside.n_edges, beside.fact_ids, beside.epochs) == (3, ("f1", "f2"), ("ep1",))
    assert [cell.fact_id for cell in beside.cells("ep1")] == ["f1", "f2"]
    more = replace(side, facts=main.facts[1:4])
    assert compute(more, is_main=False).n_done == 3
    assert open_run(folder).method == "eap-ig-inputs"
    assert len(open_run(folder, method="eap").cells("ep1")) == 3
    assert compute(side, is_main=True).n_computed == 0
    assert open_run(folder).method == "eap"
    assert compute(side, is_main=False).n_computed == 0
    assert open_run(folder).method == "eap"
    with pytest.raises(UsageError, match="no results by 'relp'; there are those by eap, eap-ig"):
        open_run(folder, method="relp")


def test_changed_fact_is_computed_anew(tmp_path: Path) -> None:
    request = fake.make_request(tmp_path)
    sweep(tmp_path, request)
    changed = replace(request.facts[0], object="z")
    facts = (changed, *request.facts[1:])
    result = sweep(tmp_path, replace(request, facts=facts, known_facts=facts))
    assert result.n_computed == 4  # its batch of two, at two epochs
    assert open_run(tmp_path / "run").facts[0].object == "z"


def test_numbers_that_do_not_reproduce_are_reported(tmp_path: Path) -> None:
    request = fake.make_request(tmp_path)
    sweep(tmp_path, request)
    compute = fake.FakeCompute()
    compute.noise = 1e-6
    (tmp_path / "run" / "run.yaml").unlink()
    assert sweep(tmp_path, replace(request, batch_size=3), compute).disagreements == []
    for file in (tmp_path / "run" / "store" / "shards").iterdir():
        if len(Store(tmp_path / "run" / "store").batches) > 1:
            file.unlink()
    compute.noise = 0.1
    result = sweep(tmp_path, replace(request, batch_size=5), compute)
    assert result.disagreements
    assert result.disagreements[0].startswith("f")


def test_second_sweep_is_turned_away(tmp_path: Path) -> None:
    compute = fake.FakeCompute()

    def meet() -> None:
        with pytest.raises(StoreBusyError):
            sweep(tmp_path)

    compute.before_batch = meet
    assert sweep(tmp_path, compute=compute).n_done == 10


def test_preview_writes_nothing(tmp_path: Path) -> None:
    request = fake.make_request(tmp_path)
    states = preview(request, tmp_path / "run")
    assert [(s.epoch, len(s.facts), s.done) for s in states][:3] == [
        ("ep0", 2, 0),
        ("ep0", 2, 0),
        ("ep0", 1, 0),
    ]
    assert not (tmp_path / "run").exists()
    sweep(tmp_path, request)
    assert sum(state.done for state in preview(request, tmp_path / "run")) == 10


def test_changed_record_is_detected(tmp_path: Path) -> None:
    sweep(tmp_path)
    file = tmp_path / "run" / "run.yaml"
    file.write_text(file.read_text().replace('"f3"', '"f8"', 1))
    with pytest.raises(StoreCorruptError, match=r"run\.yaml"):
        open_run(tmp_path / "run")


def test_no_run_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no results"):
        open_run(tmp_path)


def test_choose_facts_by_id_and_stratum() -> None:
    facts = [fake.make_fact(name) for name in ("a", "b", "c")]
    assert [f.id for f in choose_facts(facts, "k=c,a")] == ["a", "c"]
    assert choose_facts(facts, None) == tuple(facts)
    with pytest.raises(UsageError, match="'k=d' is neither a fact nor a stratum"):
        choose_facts(facts, "a,k=d")


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("magic", {}, "there is no method 'magic'"),
        ("eap", {"params": {"ig_steps": 3}}, "ig_steps = 3 is no parameter of eap"),
        ("eap", {"params": {"metric": "kl"}}, "eap cannot use the metric kl"),
        ("eap", {"params": {"metric": "loss"}}, "there is no metric 'loss'"),
        ("eap-ig-inputs", {"params": {"ig_steps": 0}}, "ig_steps is 0"),
        ("eap-ig-inputs", {"params": {"ig_grid": "middle"}}, "ig_grid is 'middle'"),
        ("eap", {"fraction": 0.0}, "fraction is 0.0"),
        ("eap", {"fraction": 1.5}, "fraction is 1.5"),
        ("eap", {"n_edges": 0}, "n_edges is 0"),
        ("eap", {"n_edges": 5, "fraction": 0.1}, "exclude each other"),
        ("eap", {"dtype": "int8"}, "dtype is 'int8'"),
    ],
)
def test_settings_that_cannot_be_meant(method: str, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_settings(method, **options)


@pytest.mark.parametrize("method", METHODS)
def test_settings_are_those_that_attribution_uses(method: str) -> None:
    params = {"metric": "logit-difference", **METHODS[method].defaults}
    assert make_settings(method).params == params


def test_reading_a_run_imports_no_torch(tmp_path: Path) -> None:
    sweep(tmp_path)
    code = (
        "import sys; from kcircuits.study import open_run; "
        f"open_run({str(tmp_path / 'run')!r}).cells('ep0'); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
