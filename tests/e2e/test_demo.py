"""The whole study on the smoke preset: killed, started again, read, opened, walked through."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kcircuits as kc
from kcircuits.cli.main import main
from kcircuits.core.circuit import Circuits, prune_dangling

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "kcircuits", "demo", "--preset", "smoke", "--quiet"]


def fingerprints(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each committed file."""
    files = (
        *folder.glob("checkpoints/*/*.safetensors"),
        *folder.glob("runs/*/store/shards/*.safetensors"),
    )
    return {
        str(file.relative_to(folder)): (file.stat().st_size, file.stat().st_mtime_ns)
        for file in files
    }


def start_and_kill(out: Path) -> dict[str, tuple[int, int]]:
    """Kills the demo in the middle of its sweep; gives what was committed by then."""
    with (out.parent / "killed.log").open("w") as log:
        process = subprocess.Popen([*COMMAND, "--out", str(out)], stdout=log, stderr=log)
        while process.poll() is None and not [*out.glob("runs/*/store/shards/*.safetensors")]:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, (out.parent / "killed.log").read_text()
    return fingerprints(out)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A demo that was killed once and then finished."""
    out = tmp_path_factory.mktemp("demo") / "out"
    committed = start_and_kill(out)
    done = subprocess.run(
        [*COMMAND, "--out", str(out), "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {"out": out, "committed": committed, "printed": json.loads(done.stdout)}


def test_a_killed_demo_goes_on_where_it_was(demo: dict[str, Any]) -> None:
    now = fingerprints(demo["out"])
    assert demo["committed"]
    assert len(now) > len(demo["committed"])
    assert {name: now[name] for name in demo["committed"]} == demo["committed"]


def test_every_fact_has_a_cell_at_every_epoch(demo: dict[str, Any]) -> None:
    manifest = kc.load_manifest(demo["out"] / "checkpoints_manifest.yaml")
    facts = kc.load_facts(manifest.facts)
    run = kc.open_run(demo["printed"]["run"])
    assert run.epochs == manifest.epochs
    assert len({frozenset(fact.strata.items()) for fact in facts}) >= 3
    for epoch in run.epochs:
        cells = run.cells(epoch)
        assert [cell.fact_id for cell in cells] == [fact.id for fact in facts]
        assert all(len(cell.prompt_idx) == 8 for cell in cells)
    assert all(len(fact.prompt_indices("evaluation")) >= 2 for fact in facts)


def test_the_model_learns_and_the_summary_says_so(demo: dict[str, Any]) -> None:
    table = demo["printed"]["knowledge"]
    assert table[0]["trained high"] <= 0.25  # what guessing among 24 answers gives now and then
    assert table[-1]["trained high"] > 0.5
    losses = [row["loss"] for row in table[1:]]
    assert losses == sorted(losses, reverse=True)


def test_a_few_facts_are_pruned_beside_the_run(demo: dict[str, Any]) -> None:
    """The run still opens with all facts; pruned circuits are judged on the same prompts."""
    run = kc.open_run(demo["printed"]["run"])
    pruned = kc.open_run(run.path, method="edge-pruning")
    assert run.method == "eap-ig-inputs"
    assert pruned.epochs == run.epochs[-1:]
    assert len(pruned.fact_ids) == 3
    strata = {fact.id: tuple(fact.strata.values()) for fact in run.facts}
    assert len({strata[fact_id] for fact_id in pruned.fact_ids}) == 3
    found = {(row["fact"], row["method"]): row for row in demo["printed"]["methods"]}
    assert len(found) == 6
    last = run.epochs[-1]
    manifest = kc.load_manifest(demo["out"] / "checkpoints_manifest.yaml")
    model = kc.load_model(manifest[last])
    batch = kc.tokenize(model, [fact for fact in run.facts if fact.id in pruned.fact_ids])
    for results in (run, pruned):
        masks = [circuit_mask(cell) for cell in results.cells(last, pruned.fact_ids)]
        circuits = Circuits.from_mask(
            np.concatenate(masks), results.topology, fact_ids=pruned.fact_ids
        )
        judged = kc.evaluate(model, batch, circuits)
        assert judged.prompts == "evaluation"
        for i, fact_id in enumerate(pruned.fact_ids):
            row = found[fact_id, results.method]
            assert row["edges"] == circuits.n_edges[i]
            assert row["faithfulness"] == pytest.approx(judged.faithfulness[i], abs=1e-4)


def circuit_mask(cell: Any) -> np.ndarray:
    """The circuit of a cell, drawn up edge by edge."""
    scores = np.zeros(cell.topology.edge_mask.size)
    scores[cell.candidates] = np.abs(cell.prompt_scores.mean(0))
    mask = np.zeros(cell.topology.edge_mask.size, dtype=bool)
    mask[np.argsort(-scores, kind="stable")[: cell.n_edges]] = True
    shape = (1, *cell.topology.edge_mask.shape)
    return prune_dangling(mask.reshape(shape), cell.topology)


def test_pages_are_written(demo: dict[str, Any]) -> None:
    for name in ("report", "diff_page", "track_page"):
        page = Path(demo["printed"][name]).read_text(encoding="utf-8")
        assert "default-src 'none'" in page


def test_verbs_read_the_results(demo: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    manifest = str(demo["out"] / "checkpoints_manifest.yaml")
    assert main(["diff", "ep3", "last", "--manifest", manifest, "--json"]) == 0
    diff = json.loads(capsys.readouterr().out)
    assert diff["schema"] == "kcircuits.diff/1"
    assert diff["rows"][0]["stratum"] == "all"
    for verb in (["manifest", "check", manifest], ["status", "--manifest", manifest]):
        assert main(verb) == 0


def test_the_commands_of_the_readme_run(
    demo: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word for word, but that this training is shorter than that of the README by an epoch."""
    block = (ROOT / "README.md").read_text(encoding="utf-8").split("## Then")[1].split("```")[1]
    commands = [shlex.split(line, comments=True) for line in block.strip().splitlines()]
    assert commands.pop(0)[0] == "cd"
    monkeypatch.chdir(demo["out"])
    for program, verb, *words in commands:
        assert program == "kcircuits"
        args = [verb, *(word.replace("ep7", "ep6") for word in words), "--quiet"]
        assert main(args) == 0, (args, capsys.readouterr())


def test_the_notebook_runs_from_top_to_bottom(
    demo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("KCIRCUITS_DEMO", str(demo["out"]))
    notebook = nbformat.read(ROOT / "notebooks" / "demo.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    client = NotebookClient(notebook, timeout=300, kernel_name=_kernel())
    client.execute(env=os.environ.copy(), cwd=str(ROOT))


def _kernel() -> str:
    from jupyter_client.kernelspec import NATIVE_KERNEL_NAME

    return NATIVE_KERNEL_NAME


@pytest.mark.browser
def test_the_report_opens_in_a_browser(demo: dict[str, Any]) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is absent; install the package chromium")
        pytest.skip("Chromium is absent")
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda r: (
                None if r.url.startswith(("file:", "data:", "blob:")) else problems.append(r.url)
            ),
        )
        page.goto(Path(demo["printed"]["report"]).as_uri())
        page.wait_for_selector(".js-plotly-plot .main-svg")
        assert "smoke-full" in page.inner_text("body")
        assert page.locator("#beside h3").all_inner_texts() == ["eap-ig-inputs", "edge-pruning"]
        browser.close()
    assert problems == []
