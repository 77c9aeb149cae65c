"""`kcircuits report` on a run folder; no browser needed."""

import json
import subprocess
import sys

from kcircuits.cli.main import main


def test_report_writes_the_page_and_prints_its_path(new_run, capsys):
    run = new_run(n_epochs=2)
    assert main(["report", "--run", str(run.path)]) == 0
    path = run.path / "figures" / "report.html"
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_report_goes_where_it_is_told(new_run, tmp_path, capsys):
    run, out = new_run(n_epochs=2), tmp_path / "page.html"
    assert main(["report", "--run", str(run.path), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": "kcircuits.report/1",
        "path": str(out),
    }
    assert out.stat().st_size > 1_000_000


def test_report_without_results_says_what_to_do(tmp_path, capsys):
    assert main(["report", "--run", str(tmp_path)]) == 2
    assert "kcircuits run" in capsys.readouterr().err


def test_report_of_a_run_without_a_finished_cell(new_run, capsys):
    run = new_run(n_epochs=1, fact_ids=("a",), missing=frozenset({("a", 0)}))
    assert main(["report", "--run", str(run.path)]) == 9
    assert "no result yet" in capsys.readouterr().err
    assert not (run.path / "figures").exists()


def test_report_imports_no_torch(new_run):
    code = (
        "import sys; from kcircuits.cli.main import main; code = main(sys.argv[1:]);"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    arguments = ["report", "--run", str(new_run(n_epochs=1).path)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
