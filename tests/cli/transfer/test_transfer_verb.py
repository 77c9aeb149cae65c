"""``kcircuits transfer``: computes what is missing, survives, answers without torch, refuses."""

import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import kcircuits as kc
from kcircuits.cli.main import main
from kcircuits.study.transfer.compute import transfer_run
from kcircuits.study.transfer.page import transfer_page
from tests.cli.transfer.conftest import EPOCHS, N_EDGES, N_FACTS, Call, row_of

# Dies when the second checkpoint's file is about to get its name.
KILLED = """
import os, signal, sys
from pathlib import Path
from kcircuits.cli.main import main
whole, calls = Path.replace, 0
def replace(self, target):
    global calls
    calls += 1
    if calls == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, target)
Path.replace = replace
sys.exit(main(["transfer", "--quiet"]))
"""
ANSWERS_WITHOUT_TORCH = """
import sys
from kcircuits.cli.main import main
assert main(["transfer", "--quiet", "--json", "--by", "half"]) == 0
assert not {"torch", "transformers"} & set(sys.modules)
"""


def test_a_second_call_computes_only_what_is_missing(scored: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(scored, root)
    run = kc.open_run(root / "runs" / "moved")
    first = run.transfer(sources=["ep0"], targets=["ep1"], n_draws=0)
    # the moved, the own and two half circuits of each fact
    assert first.n_computed == 4 * N_FACTS
    again = run.transfer(sources=["ep0"], targets=["ep1"], n_draws=0)
    assert (again.n_computed, again.to_json()) == (0, first.to_json())
    more = run.transfer(sources=["ep0", "ep2"], targets=["ep1"], n_draws=0)
    assert more.n_computed == N_FACTS
    assert more.to_json()["rows"][:2] == first.to_json()["rows"]
    assert run.transfer(sources=["ep0"], targets=["ep1"], n_draws=1).n_computed == N_FACTS
    assert run.transfer(sources=["ep0"], targets=["ep1"], n_draws=3).n_computed == 2 * N_FACTS
    few = ["f1", "f3"]
    assert run.transfer(targets=["ep2"], fact_ids=few, n_draws=0).n_computed == 5 * 2
    # the stratum circuits are others where other facts shape them
    assert run.transfer(targets=["ep2"], n_draws=0).n_computed == 5 * (N_FACTS - 2)
    zero = run.transfer(sources=["ep0"], targets=["ep1"], n_draws=0, ablation="zero")
    assert zero.n_computed == 4 * N_FACTS
    assert len(list((root / "runs/moved/transfer").glob("*.json"))) == 3


def test_a_killed_transfer_goes_on_to_the_same_files(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("killed", "whole"):
        shutil.copytree(scored, tmp_path / name)
    folders = {name: tmp_path / name / "runs/moved/transfer" for name in ("killed", "whole")}
    done = subprocess.run(
        [sys.executable, "-c", KILLED], check=False, cwd=tmp_path / "killed", capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(list(folders["killed"].glob("*.json"))) == 1
    assert len(list(folders["killed"].glob(".writing-*"))) == 1
    for name in ("killed", "whole"):
        monkeypatch.chdir(tmp_path / name)
        assert main(["transfer", "--quiet"]) == 0
    found = {
        name: {file.name: file.read_bytes() for file in folder.iterdir()}
        for name, folder in folders.items()
    }
    assert len(found["whole"]) == 4  # three checkpoints and the lock
    assert found["killed"] == found["whole"]


def test_reading_needs_no_torch_and_no_checkpoint(copy: Path) -> None:
    for epoch in EPOCHS:
        shutil.rmtree(copy / epoch)
    kc.open_run(copy / "runs" / "moved").transfer(by="half", n_draws=2, seed=3)
    code = ANSWERS_WITHOUT_TORCH.replace(
        '"--by", "half"', '"--by", "half", "--baseline", "2", "--seed", "3"'
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=copy, capture_output=True)


def test_text_shows_matrix_lines_and_strata(transfer: Call, study: Path) -> None:
    code, output = transfer(study, "--by", "half", "--baseline", "2", "--seed", "3")
    assert code == 0
    for part in (
        "moved  6 facts", "eap (metric logit-difference)", f"top {N_EDGES} of ",
        "Faithfulness (from: circuits; to: weights)", "Transfer loss: own minus moved",
        "Loss both ways: mean of the two directions",
        "On their own weights", "first known", "best by knowledge", "Between strata (half)",
    ):  # fmt: skip
        assert part in output.out, part
    assert "\x1b" not in output.out
    _, told = transfer(study, "--json", "--baseline", "2", "--seed", "3", "--from", "first,last")
    assert (told["schema"], told["from"]) == ("kcircuits.transfer/1", ["ep0", "ep2"])
    assert (told["by"], told["strata"], told["draws"]) == (None, [], 2)
    cell = row_of(told["rows"], **{"from": "ep2", "to": "ep1", "set": "ratio of means"})
    line = next(text for text in output.out.splitlines() if text.startswith("  ep2"))
    assert line.split()[2] == f"{cell['faithfulness']:.2f}"
    assert cell["loss_both_ways"] is None  # ep1 gives no circuits here
    assert row_of(told["rows"], **{"from": "ep2", "to": "ep0", "set": "ratio of means"})[
        "loss_both_ways"
    ] is not None  # fmt: skip


def test_html_writes_a_page(transfer: Call, study: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    options = ["--by", "half", "--baseline", "2", "--seed", "3"]
    code, output = transfer(study, "--html", str(file), *options)
    assert code == 0
    assert str(file) in output.out
    page = file.read_text(encoding="utf-8")
    for part in ("Circuit transfer", "What moving costs", "Between strata", "All pairs"):
        assert part in page
    found = kc.open_run(study / "runs/moved").transfer(seed=3, n_draws=0)
    assert "Between strata" not in transfer_page(found)
    assert len(found.plot().data) == 1  # no heat map of random circuits where there are none


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--from", "ep9"), "'ep9' means no checkpoint"),
        (("--to", "ep2..ep0"), "runs backwards"),
        (("--by", "colour"), "no fact has a stratum 'colour'"),
        (("--facts", "nobody"), "'nobody' is neither a fact nor a stratum"),
        (("--metric", "loss"), "there is no metric 'loss'"),
        (("--ablation", "noise"), "ablation is 'noise'"),
        (("--ablation", "optimal"), "cannot use the ablation optimal"),
        (("--baseline", "-1"), "n_draws is -1"),
        (("--seed", "-1"), "seed is -1"),
        (("--memory", "much", "--seed", "8"), "memory is 'much'"),
        (("--method", "gim"), "no results by 'gim'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    transfer: Call, study: Path, args: tuple[str, ...], message: str
) -> None:
    code, output = transfer(study, *args)
    assert code == 2
    assert message in output.err


def test_other_weights_and_other_architectures_are_refused(transfer: Call, copy: Path) -> None:
    """Before anything is written; a transfer that needs neither is read as before."""
    from transformers import LlamaConfig, LlamaForCausalLM

    before = {file: file.read_bytes() for file in (copy / "runs/moved/transfer").iterdir()}
    shutil.rmtree(copy / "ep1")
    shutil.copytree(copy / "ep0", copy / "ep1")
    config = LlamaConfig.from_pretrained(copy / "ep2")
    config.num_hidden_layers = 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LlamaForCausalLM(config).save_pretrained(copy / "ep2")
    for epoch in ("ep1", "ep2"):
        code, told = transfer(copy, "--json", "--to", epoch, "--seed", "9")
        assert code == 4
        assert "is not the one that the run has scored" in told["error"]["message"]
        assert f"kcircuits run --epochs {epoch}" in told["error"]["hint"]
    now = {file: file.read_bytes() for file in (copy / "runs/moved/transfer").iterdir()}
    assert now == before
    assert transfer(copy, "--json", "--baseline", "2", "--seed", "3")[0] == 0


def test_a_checkpoint_that_changes_meanwhile_leaves_nothing(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file: file.read_bytes() for file in (copy / "runs/moved/transfer").iterdir()}
    run = kc.open_run(copy / "runs/moved")

    def change(*_: object) -> None:
        (copy / "ep1" / "config.json").write_text("{}")

    with pytest.raises(kc.KCircuitsError, match="is not the one that the run has scored"):
        run.transfer(targets=["ep1"], seed=9, progress=change)
    assert {file: file.read_bytes() for file in (copy / "runs/moved/transfer").iterdir()} == before


def test_a_flipped_bit_is_found(transfer: Call, copy: Path) -> None:
    file = sorted((copy / "runs/moved/transfer").glob("*.json"))[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    code, told = transfer(copy, "--json")
    assert code == 5
    assert "delete that file" in told["error"]["hint"]
    where = ["--run", str(copy / "runs" / "moved")]
    assert main(["status", "--verify", *where]) == 5
    assert main(["status", "--repair", *where]) == 0
    assert not file.exists()
    assert main(["status", "--verify", *where]) == 0
    assert transfer(copy, "--json", "--to", "ep0", "--from", "ep0")[0] == 0


def test_a_fact_without_evaluation_prompts_is_refused(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = kc.open_run(study / "runs/moved")
    monkeypatch.setattr(
        kc.Fact, "prompt_indices",
        lambda self, use: () if (self.id, use) == ("f2", "evaluation") else (0, 1),
    )  # fmt: skip
    with pytest.raises(kc.KCircuitsError, match="'f2' has no evaluation prompt"):
        transfer_run(run)


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from kcircuits.cli.main import main; "
        "assert main(['transfer', '--help']) == 0; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
