"""``kcircuits dynamics`` and ``kcircuits stopping`` on run folders made here."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kcircuits.analysis.dynamics.rows import FIELDS
from kcircuits.cli.main import main
from tests.cli.dynamics_runs import N_EPOCHS, N_FACTS, run_json, run_of, write_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of a run, and their facts file; read only."""
    return write_lab(tmp_path_factory.mktemp("lab"))


def test_json_has_the_rows_of_the_contract(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "dynamics", "--manifest", lab / "run0/checkpoints_manifest.yaml")
    assert found["schema"] == "kcircuits.dynamics/1"
    assert [tuple(row) for row in found["rows"]] == [FIELDS] * N_EPOCHS
    first, last = found["rows"][0], found["rows"][-1]
    assert (first["epoch"], first["loss"], first["acquired"]) == (0, None, None)
    assert (last["model"], last["strategy"], last["seed"]) == ("tiny", "full", 0)
    assert last["loss"] == pytest.approx(0.6)
    assert last["skills"] == {"addition": last["ood_avg"]}
    assert last["known"] > first["known"]
    # Facts and their strata came from the manifest's facts file.
    (about,) = found["runs"]
    assert (about["facts"], about["entities"], about["unit"]) == (24, 12, "fact")
    assert len(found["facts"]) == N_FACTS
    assert found["entities"] == []
    rises = [row["mean"] for row in found["differences"] if row["since_start"]]
    assert rises[0] == 0
    assert rises[-1] > 0.5
    (summary,) = found["summary"]
    assert summary["effectivity"]["mean"] > 0
    assert {row["name"] for row in summary["retention"]} == {"retention under re-exposure"}


def test_last_exposure_turns_retention_into_retainability(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_json(capsys, "dynamics", "--run", run_of(lab, 0), "--last-exposure", 3)
    names = {row["name"] for row in found["summary"][0]["retention"]}
    assert names == {"retainability"}


def test_strata_and_several_runs(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [run_of(lab, seed) for seed in range(3)]
    found = run_json(capsys, "dynamics", "--run", *runs, "--by", "split")
    assert {row["stratum"] for row in found["rows"]} == {"trained", "control"}
    assert {row["seed"] for row in found["rows"]} == {0, 1, 2}
    assert len(found["rows"]) == 3 * 2 * N_EPOCHS
    one_by_one = [part for run in runs for part in ("--run", run)]
    assert run_json(capsys, "dynamics", *one_by_one, "--by", "split") == found


def test_a_flag_replaces_runs_of_the_environment(
    lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KCIRCUITS_RUN", str(run_of(lab, 0)))
    assert {row["seed"] for row in run_json(capsys, "dynamics")["rows"]} == {0}
    found = run_json(capsys, "dynamics", "--run", run_of(lab, 1))
    assert {row["seed"] for row in found["rows"]} == {1}


def test_table_says_what_it_counts(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dynamics", "--run", str(run_of(lab, 1)), "--by", "prior"]) == 0
    out = capsys.readouterr().out
    assert "tiny, full, seed 1: 24 facts about 12 entities, 72 probes" in out
    assert "learned, acquired, retained, forgotten count facts" in out
    assert "loss falls and knowledge does not rise on" in out
    assert "recall" not in out  # columns without any number are left out


def test_what_a_short_run_cannot_tell_is_said(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.html"
    given = ["dynamics", "--run", str(run_of(lab, 0)), "--html", str(file), "--consolidated"]
    for k in (N_EPOCHS + 1, N_EPOCHS + 2):
        assert main([*given, str(k)]) == 0
        out = capsys.readouterr().out
        assert f"known for the last {k} epochs or more: cannot be told, no fact had the time" in out
        assert '"note":"cannot be told"' in file.read_text(encoding="utf-8")
    assert main([*given, str(N_EPOCHS)]) == 0
    assert f"known for the last {N_EPOCHS} epochs or more\n" in capsys.readouterr().out
    assert "cannot be told" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--run", "nowhere"], 2, "nowhere holds no probes"),
        (["--run", "RUN0", "--by", "color"], 2, "no stratum 'color'"),
        (["--run", "RUN0", "--kind", "inverse"], 2, "no probes of kind 'inverse'"),
        (["--run", "RUN0", "RUN0"], 2, "both hold a run of"),
        (["--run", "RUN0", "--consolidated", "0"], 2, "k is 0"),
        (["--run", "RUN0", "--seed", "-1"], 2, "seed is -1; expected 0 or more"),
        (["import"], 2, "needs a FOLDER"),
        (["import", "RUN0", "--run", "RUN0"], 2, "--run does not go with dynamics import"),
        (["import", "RUN0"], 3, "no <model>/baseline folder"),
        (["export"], 2, "invalid choice: 'export'"),
    ],
)
def test_errors_name_what_is_wrong(
    lab: Path, args: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(run_of(lab, 0)) if arg == "RUN0" else arg for arg in args]
    assert main(["dynamics", *given]) == code
    assert message in capsys.readouterr().err


def test_a_lost_row_is_an_error_with_fact_and_epoch(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_of(lab, 0), run)
    lines = (run / "probes.jsonl").read_text().splitlines(keepends=True)
    (run / "probes.jsonl").write_text("".join(lines[:100] + lines[101:]))
    assert main(["dynamics", "--run", str(run)]) == 3
    assert "fact 'f9', prompt 1, kind 'paraphrase' has no row at epoch 1" in capsys.readouterr().err


def test_page_is_written_and_holds_the_figures(lab: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    runs = [str(run_of(lab, seed)) for seed in range(2)]
    facts = ["--facts", str(lab / "facts.jsonl")]
    assert main(["dynamics", "--run", *runs, *facts, "--by", "split", "--html", str(file)]) == 0
    text = file.read_text(encoding="utf-8")
    for name in ("curves", "loss", "flows", "facts", "survival", "summary"):
        assert f'"name":"{name}"' in text


def write_release(root: Path) -> Path:
    """The released layout in small: two entities, one epoch."""
    for folder, recalls in (("baseline", (0.6, 0.1)), ("VFT/epoch_1", (0.5, 0.9))):
        here = root / "output" / "some-model" / folder
        here.mkdir(parents=True)
        entities: dict[str, Any] = {
            name: {"recall": value, "f1": 0.0}
            for name, value in zip(("A", "B"), recalls, strict=True)
        }
        mean = {"recall": sum(recalls) / 2, "f1": 0.0}
        probes = {"avg": mean, "high": mean, "low": mean, "entities": {">=0.6": 1} | entities}
        (here / "validation_probes_results.json").write_text(json.dumps(probes))
        scores = {"math": 0.5, "MMLU": 0.3, "SocialIQA": 0.4}
        control = {name: {"exact_match": value} for name, value in scores.items()}
        (here / "control_probes_results.json").write_text(json.dumps(control))
    return root


def test_import_reads_the_released_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_release(tmp_path)
    for folder in (root, root / "output", root / "output" / "some-model"):
        found = run_json(capsys, "dynamics", "import", folder)
        first, last = found["rows"]
        assert (last["model"], last["strategy"], last["epoch"]) == ("some-model", "lora", 1)
        assert (first["learned"], last["learned"]) == (1, 1)
        assert [last[n] for n in ("acquired", "retained", "forgotten")] == [1, 0, 1]
        assert last["recall_avg"] == pytest.approx(0.7)
        assert last["ood_avg"] == pytest.approx(0.35)
        assert (last["math"], last["mmlu"], last["social_iqa"]) == (0.5, 0.3, 0.4)


def test_import_of_a_relative_folder_finds_names_and_strata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_release(tmp_path / "release")
    (root / "data").mkdir()
    about = {
        name: {"ne_frequency": frequency, "ne_label": "person"}
        for name, frequency in (("A", "high"), ("B", "low"))
    }
    (root / "data" / "validation_probes.json").write_text(json.dumps(about))
    given = ("--by", "frequency")
    model = root / "output" / "some-model"
    expected = run_json(capsys, "dynamics", "import", model, *given)
    assert {row["stratum"] for row in expected["rows"]} == {"high", "low"}
    for here, folder in ((model, "."), (model.parent, "some-model"), (root / "output", ".")):
        monkeypatch.chdir(here)
        assert run_json(capsys, "dynamics", "import", folder, *given) == expected


def test_import_reads_its_folder_alone_whatever_the_environment_names(
    lab: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = write_release(tmp_path)
    found = run_json(capsys, "dynamics", "import", root)
    monkeypatch.setenv("KCIRCUITS_MANIFEST", str(lab / "run0" / "checkpoints_manifest.yaml"))
    monkeypatch.setenv("KCIRCUITS_RUN", str(run_of(lab, 0)))
    assert run_json(capsys, "dynamics", "import", root) == found
    assert main(["dynamics", "import", str(root), "--manifest", "m.yaml"]) == 2
    assert "--manifest does not go with dynamics import" in capsys.readouterr().err


def test_import_names_what_a_file_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_release(tmp_path)
    file = root / "output/some-model/VFT/epoch_1/validation_probes_results.json"
    data = json.loads(file.read_text())
    del data["entities"]["B"]
    file.write_text(json.dumps(data))
    assert main(["dynamics", "import", str(root)]) == 3
    assert "lora: entity 'B' is not at every epoch" in capsys.readouterr().err
    data["avg"]["recall"] = None
    file.write_text(json.dumps(data))
    assert main(["dynamics", "import", str(root)]) == 3
    assert "avg.recall is None; expected a finite number" in capsys.readouterr().err


def test_stopping_compares_rules_over_three_seeds(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [run_of(lab, seed) for seed in range(3)]
    found = run_json(capsys, "stopping", "--run", *runs, "--facts", lab / "facts.jsonl")
    assert found["schema"] == "kcircuits.stopping/1"
    by_rule = {row["rule"]: row for row in found["rows"] if row["seed"] == 0}
    assert len(by_rule) == 7
    assert by_rule["lowest-loss"]["kept"] == N_EPOCHS - 1
    assert by_rule["ood-guard"]["kept"] < 3
    assert by_rule["ood-guard"]["spent"] < by_rule["lowest-loss"]["spent"]
    assert by_rule["best in hindsight"]["cost"] == 0
    assert by_rule["circuit-turnover"]["knowledge"] is None
    assert by_rule["circuit-turnover"]["note"] == "not available: the run has no turnover"
    for row in by_rule.values():
        if row["cost"] is not None:
            best = by_rule["best in hindsight"]["knowledge"]
            assert row["cost"] == pytest.approx(best - row["knowledge"])
    claims = {row["rule"]: row for row in found["comparisons"]}
    assert claims["ood-guard"]["seeds"] == 3
    is_worse = claims["ood-guard"]["high"] < 0
    assert claims["ood-guard"]["claim"] == ("worse" if is_worse else "cannot tell")
    values = [r for r in found["rows"] if r["rule"] in ("ood-guard", "lowest-loss")]
    by_seed = {(r["rule"], r["seed"]): r["knowledge"] for r in values}
    differences = [by_seed["ood-guard", s] - by_seed["lowest-loss", s] for s in range(3)]
    error = np.std(differences, ddof=1) / np.sqrt(3)
    assert claims["ood-guard"]["difference"] == pytest.approx(np.mean(differences))
    assert claims["ood-guard"]["high"] == pytest.approx(
        np.mean(differences) + 4.302653 * error, rel=1e-4
    )


def test_stopping_claims_nothing_from_two_seeds(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(run_of(lab, seed)) for seed in range(2)]
    assert main(["stopping", "--run", *runs, "--rule", "lowest-loss", "--rule", "probe-peak"]) == 0
    out = capsys.readouterr().out
    assert "none: 2 training seeds, at least 3 are needed" in out
    assert "ood-guard" not in out


def test_stopping_refuses_a_seed_below_0(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stopping", "--run", str(run_of(lab, 0)), "--seed", "-1"]) == 2
    assert "seed is -1; expected 0 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("nonsense", "no stopping rule 'nonsense'"),
        ("probe-peak:patience=x", "expected KEY=NUMBER"),
        ("probe-peak:patience=0", "patience is 0"),
        ("probe-peak:patience=2,patience=3", "has patience twice"),
        ("circuit-turnover:patience=1.5", "patience is 1.5; expected a whole number"),
    ],
)
def test_stopping_refuses_rules_that_are_none(
    lab: Path, rule: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stopping", "--run", str(run_of(lab, 0)), "--rule", rule]) == 2
    assert message in capsys.readouterr().err


def test_stopping_shows_a_rule_once_for_each_of_its_settings(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = ["lowest-loss", "probe-peak", "probe-peak:patience=1"]
    given = ["stopping", "--run", run_of(lab, 0), *(p for rule in rules for p in ("--rule", rule))]
    found = run_json(capsys, *given)
    assert list(found["rules"]) == rules
    assert [found["rules"][rule].get("patience") for rule in rules] == [None, 3, 1]
    assert [row["rule"] for row in found["rows"]] == [*rules, "best in hindsight"]
    assert [row["rule"] for row in found["comparisons"]] == rules[1:]
    alone = run_json(capsys, *given[:3], "--rule", "probe-peak:patience=1")
    assert list(alone["rules"]) == ["probe-peak"]
    assert main([*map(str, given), "--rule", "probe-peak:patience=3"]) == 2
    assert "names probe-peak:patience=3 with the same settings twice" in capsys.readouterr().err
