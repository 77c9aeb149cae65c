"""Checkpoints are found in each layout that trainers write, in training order."""

import json
from pathlib import Path

import pytest

from kcircuits.errors import CheckpointError, ManifestError, UsageError
from kcircuits.io.discover import discover_checkpoints


def model(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def adapter(folder: Path, base: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return folder


def state(folder: Path, epoch: object, step: object = 1) -> None:
    (folder / "trainer_state.json").write_text(json.dumps({"epoch": epoch, "global_step": step}))


def rows(root: Path, **options: object) -> list[tuple[str, float | None, int | None, str]]:
    manifest = discover_checkpoints(root, **options).manifest  # type: ignore[arg-type]
    return [(c.id, c.epoch, c.step, (c.adapter or c.path).name) for c in manifest]


def test_trainer_checkpoints_take_their_epoch_from_the_state(tmp_path: Path) -> None:
    base, root = model(tmp_path / "base"), tmp_path / "out"
    for step, epoch in ((900, 1.0), (1000, 1.1), (1800, 2.0)):
        state(model(root / f"checkpoint-{step}"), epoch, step)
    assert rows(root, base=base) == [
        ("ep0", 0, 0, "base"),
        ("ep1", 1.0, 900, "checkpoint-900"),
        ("step1000", 1.1, 1000, "checkpoint-1000"),
        ("ep2", 2.0, 1800, "checkpoint-1800"),
    ]


def test_trainer_checkpoints_without_state_are_steps(tmp_path: Path) -> None:
    model(tmp_path / "out/checkpoint-5")
    found = discover_checkpoints(tmp_path / "out")
    assert [(c.id, c.epoch, c.step) for c in found.manifest] == [("step5", None, 5)]
    assert "epoch 0 is missing" in found.warnings[0]
    assert found.manifest.base_model == "unknown"


@pytest.mark.parametrize("names", [["epoch_0", "epoch_2", "epoch_10"], ["ep0", "ep2", "ep10"]])
def test_epoch_folders_are_ordered_by_number(names: list[str], tmp_path: Path) -> None:
    for name in names:
        model(tmp_path / "out" / name)
    found = discover_checkpoints(tmp_path / "out", facts=tmp_path / "x.jsonl")
    assert [c.id for c in found.manifest] == ["ep0", "ep2", "ep10"]
    assert [c.path.name for c in found.manifest] == names
    assert found.warnings == (
        f"there is no facts file {tmp_path}/x.jsonl yet: name it with --facts FILE",
    )


def test_step_folders_begin_with_the_untrained_model(tmp_path: Path) -> None:
    for name in ("step0", "step1000", "step512"):
        model(tmp_path / "pythia" / name)
    assert rows(tmp_path / "pythia") == [
        ("ep0", 0.0, 0, "step0"),
        ("step512", None, 512, "step512"),
        ("step1000", None, 1000, "step1000"),
    ]


@pytest.mark.parametrize("name", ["checkpoint-{}", "epoch_{}", "lora-{}"])
def test_adapters_stand_on_the_base_that_they_name(name: str, tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    for n in (1, 2):
        state(adapter(tmp_path / "out" / name.format(n), str(base)), n)
    manifest = discover_checkpoints(tmp_path / "out").manifest
    assert manifest.epochs == ("ep0", "ep1", "ep2")
    assert {c.path for c in manifest} == {base}
    assert manifest["ep0"].adapter is None
    assert manifest["ep2"].adapter == tmp_path / "out" / name.format(2)
    assert manifest.base_model == "base"


def test_a_lone_adapter_folder_is_one_checkpoint(tmp_path: Path) -> None:
    model(tmp_path / "base")
    adapter(tmp_path / "my adapter", "base")
    (tmp_path / "my adapter/facts.jsonl").write_text("")
    manifest = discover_checkpoints(tmp_path / "my adapter").manifest
    assert manifest.epochs == ("ep0", "final")
    assert manifest.run == "my-adapter"
    assert manifest.facts == tmp_path / "my adapter/facts.jsonl"


def test_folders_without_a_model_are_left_out_and_told(tmp_path: Path) -> None:
    model(tmp_path / "epoch_1")
    (tmp_path / "epoch_2").mkdir()
    (tmp_path / "runs").mkdir()
    found = discover_checkpoints(tmp_path)
    assert found.manifest.epochs == ("ep1",)
    assert found.warnings[0] == "left out epoch_2: no config.json, no adapter_config.json"


def test_adapters_without_a_local_base_are_refused(tmp_path: Path) -> None:
    adapter(tmp_path / "out/checkpoint-1", "someone/model")
    with pytest.raises(UsageError, match="base model 'someone/model' is no local folder") as caught:
        discover_checkpoints(tmp_path / "out")
    assert caught.value.hint == "name the base model's folder with --base MODEL_DIR"
    with pytest.raises(UsageError, match=r"holds no config\.json"):
        discover_checkpoints(tmp_path / "out", base=tmp_path)


def test_nothing_to_find_is_refused(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with pytest.raises(UsageError, match=r"no checkpoints in .*; its folders: logs"):
        discover_checkpoints(tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        discover_checkpoints(tmp_path / "absent")


def test_two_layouts_in_one_folder_are_refused(tmp_path: Path) -> None:
    model(tmp_path / "checkpoint-10")
    model(tmp_path / "epoch_1")
    with pytest.raises(ManifestError, match="two layouts: checkpoint-N and epoch_N"):
        discover_checkpoints(tmp_path)


@pytest.mark.parametrize("names", [("epoch_1", "epoch-1"), ("ep1", "ep01")])
def test_two_folders_of_one_epoch_are_refused(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        model(tmp_path / name)
    with pytest.raises(ManifestError, match="does not come after"):
        discover_checkpoints(tmp_path)


def test_epochs_that_fall_with_the_step_are_refused(tmp_path: Path) -> None:
    state(model(tmp_path / "checkpoint-1"), 2.0)
    state(model(tmp_path / "checkpoint-2"), 1.0)
    with pytest.raises(ManifestError, match=r"checkpoint-2 does not come after checkpoint-1"):
        discover_checkpoints(tmp_path)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", CheckpointError, "not valid JSON"),
        ("[]", CheckpointError, "JSON object was expected"),
        ("{}", ManifestError, "epoch is None"),
        ('{"epoch": "1"}', ManifestError, "epoch is '1'"),
        ('{"epoch": -1}', ManifestError, "epoch is -1"),
        ('{"epoch": NaN}', ManifestError, "epoch is nan"),
        ('{"epoch": true}', ManifestError, "epoch is True"),
    ],
)
def test_a_broken_trainer_state_is_refused(
    text: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    (model(tmp_path / "checkpoint-1") / "trainer_state.json").write_text(text)
    with pytest.raises(error, match=message) as caught:
        discover_checkpoints(tmp_path)
    assert caught.value.file.endswith("trainer_state.json")  # type: ignore[attr-defined]
