"""Many trainings on one benchmark: what is trained, kept, left to others, and shown at the end."""

import contextlib
import json
import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from kcircuits.cli.main import main
from kcircuits.errors import PartialError, UsageError
from kcircuits.io.jsonl import read_rows
from kcircuits.io.lock import writer_lock
from kcircuits.lab import grid as grids
from kcircuits.lab.grid import Grid, train_grid
from kcircuits.lab.study import train_built
from tests.contracts.tiny_lab import build_tiny


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_tiny(tmp_path_factory.mktemp("lab"))


def make_grid(built, out, **settings):
    given = {"strategies": ["full", "replay"], "seeds": [0, 1], "n_epochs": 2}
    return Grid(built=built, out=out, **{**given, **settings})


def other_base(built, folder):
    """A model with the same tokenizer that is another one."""
    shutil.copytree(built.base, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, folder / "model.safetensors")
    return folder


def done(grid):
    """Trains, and gives the names of the runs that are finished, in the order of training."""
    bar = lambda _: contextlib.nullcontext(lambda _: None)  # noqa: E731
    return [cell.name for cell, is_finished in train_grid(grid, bar) if is_finished]


def test_every_strategy_and_seed_leaves_the_rows_of_a_single_training(built, tmp_path):
    grid = make_grid(built, tmp_path / "study")
    names = ["full-seed0", "replay-seed0", "full-seed1", "replay-seed1"]
    assert done(grid) == names
    assert [folder.name for folder in grid.finished] == sorted(names)
    alone = train_built(built, to=tmp_path / "alone", strategy="replay", seed=1, n_epochs=2)
    rows = read_rows(tmp_path / "alone" / "runs" / alone.run / "probes.jsonl")
    assert read_rows(grid.out / "runs" / "replay-seed1" / "probes.jsonl") == rows
    asked = json.loads((tmp_path / "alone" / "training.json").read_text())
    assert json.loads((grid.out / "runs" / "replay-seed1" / "training.json").read_text()) == asked
    assert not list(grid.out.glob("trainings/*"))  # gigabytes that nobody asked for


def test_what_is_finished_is_not_trained_again_and_weights_stay_if_wanted(
    built, tmp_path, monkeypatch
):
    grid = make_grid(built, tmp_path, strategies=["full"], seeds=[0], keep_weights=True)
    assert done(grid) == ["full-seed0"]
    assert (tmp_path / "trainings" / "full-seed0" / "checkpoints" / "ep2").is_dir()
    monkeypatch.setattr(grids, "train_built", lambda *_, **__: pytest.fail("trained again"))
    assert done(grid) == ["full-seed0"]


def test_a_run_in_the_hands_of_another_process_is_left_to_it(built, tmp_path):
    grid = make_grid(built, tmp_path, seeds=[0])
    place = tmp_path / "trainings" / "full-seed0"
    place.mkdir(parents=True)
    with writer_lock(place / ".training.lock"):
        assert done(grid) == ["replay-seed0"]
    assert done(grid) == ["full-seed0", "replay-seed0"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategies": []}, "strategies is empty; expected at least one"),
        ({"seeds": [1, 1]}, "seeds is 1, 1; expected at least one, none twice"),
        ({"strategies": ["fall"]}, "strategy 'fall'"),
        ({"n_epochs": 0}, "n_epochs is 0"),
        ({"seeds": [-1]}, "seed is -1"),
        ({"skills": ["juggling"]}, "no skill 'juggling'"),
        ({"recipe": "none"}, "recipe 'none'"),
        ({"recipe": "seed"}, "recipe 'seed' has no strategy 'full'"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_refused_before_any_training(
    built, tmp_path, settings, message
):
    with pytest.raises(UsageError, match=message):
        make_grid(built, tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_runs_that_could_not_be_compared_do_not_come_into_one_folder(built, tmp_path):
    folder = tmp_path / "study"
    assert done(make_grid(built, folder, strategies=["full"], seeds=[0])) == ["full-seed0"]
    for settings, message in (
        ({"n_epochs": 3}, "runs with epochs 2, not 3"),
        ({"recipe": "scratch"}, "runs with recipe None, not 'scratch'"),
        ({"skills": ["copying"]}, r"runs with skills \[\], not \['copying'\]"),
    ):
        with pytest.raises(UsageError, match=message):
            done(make_grid(built, folder, **settings))
    with pytest.raises(UsageError, match="runs with base"):
        done(make_grid(replace(built, base=other_base(built, tmp_path / "model")), folder))
    other = replace(built, folder=tmp_path / "lab")
    shutil.copytree(built.folder, other.folder)
    with (other.folder / "documents.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(UsageError, match="runs with benchmark"):
        done(make_grid(other, folder))
    assert [run.name for run in (folder / "runs").iterdir()] == ["full-seed0"]


def test_the_verb_trains_and_writes_tables_and_page(built, tmp_path, capsys):
    out = tmp_path / "study"
    command = ["lab", "study", "--lab", str(built.folder), "--out", str(out), "--quiet"]
    command += ["--strategies", "full,rag-gold", "--seeds", "0", "--skills", "none"]
    command += ["--epochs", "2"]  # which rag-gold, that trains nothing, has no use for
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["schema"] == "kcircuits.training-study/1"
    assert {row["strategy"] for row in printed["measures"]} == {"full", "rag-gold"}
    assert {run["strategy"]: run["epochs"] for run in printed["runs"]} == {
        "full": [0, 1, 2],
        "rag-gold": [0],
    }
    assert printed["model"] == built.base_name
    assert json.loads((out / "study.json").read_text()) == printed
    assert "rag-gold" in (out / "study.html").read_text()
    assert main(command) == 0
    assert "known last" in capsys.readouterr().out


def test_the_verb_tells_what_another_process_has(built, tmp_path, capsys):
    command = ["lab", "study", "--lab", str(built.folder), "--out", str(tmp_path), "--quiet"]
    command += ["--strategies", "full,replay", "--seeds", "0", "--skills", "none", "--epochs", "1"]
    place = tmp_path / "trainings" / "full-seed0"
    place.mkdir(parents=True)
    with writer_lock(place / ".training.lock"):
        assert main([*command, "--json"]) == PartialError.exit_code
        printed = json.loads(capsys.readouterr().out)
        assert "1 of 2 runs are in the hands of another process" in printed["error"]["message"]
        assert "measures" not in printed  # nothing to compare with yet
        assert main([*command, "--reference", "replay"]) == PartialError.exit_code
    out, error = capsys.readouterr()
    assert "replay" in out
    assert "full-seed0" in error
    assert json.loads((tmp_path / "study.json").read_text())["reference"] == "replay"
    assert main(command) == 0
    assert json.loads((tmp_path / "study.json").read_text())["reference"] == "full"


def test_the_verb_refuses_what_it_cannot_read(built, tmp_path, capsys):
    command = ["lab", "study", "--lab", str(built.folder), "--out", str(tmp_path / "x")]
    assert main([*command, "--seeds", "one"]) == 2
    assert "--seeds is 'one'; expected whole numbers" in capsys.readouterr().err
    assert main([*command, "--reference", "rag-gold"]) == 2
    assert "--reference is 'rag-gold', which is not trained" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
