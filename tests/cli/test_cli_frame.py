"""The frame of the command line: verbs, exit codes, errors as text and JSON, environment."""

import argparse
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from kcircuits.cli import main as frame
from kcircuits.cli.main import main
from kcircuits.cli.options import common
from kcircuits.cli.output import print_table, printable, styled
from kcircuits.cli.verbs import VERBS, Verb
from kcircuits.errors import CheckpointError, FileAccessError, PartialError, UsageError

RAISED: list[BaseException] = []
SEEN: list[argparse.Namespace] = []


@pytest.fixture
def boom(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb ``boom`` that raises what RAISED holds, or returns 0."""
    module = types.ModuleType("kcircuits.cli.boom")

    def run(args: argparse.Namespace) -> int:
        SEEN[:] = [args]
        if RAISED:
            raise RAISED.pop()
        return 0

    def add_parser(subparsers) -> None:
        parser = subparsers.add_parser("boom", parents=[common()])
        group = parser.add_mutually_exclusive_group()
        group.add_argument("--n-edges", type=int)
        group.add_argument("--fraction", type=float, choices=(0.1, 0.2))
        parser.set_defaults(run=run)

    module.add_parser = add_parser  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kcircuits.cli.boom", module)
    monkeypatch.setitem(VERBS, "boom", Verb("boom", "fail"))
    RAISED.clear()


ERRORS = [
    (UsageError("bad option"), 2, "usage", "bad option"),
    (CheckpointError("no weights", file="w", line=3), 4, "checkpoint", "no weights"),
    (FileAccessError("disk"), 7, "io", "disk"),
    (PartialError("2 of 3 cells"), 8, "partial", "2 of 3 cells"),
    (OSError(28, "No space left on device", "out.bin"), 7, "io", "No space left on device"),
    (PermissionError(13, "Permission denied", "x"), 7, "io", "Permission denied"),
    (KeyboardInterrupt(), 130, "interrupted", "interrupted"),
    (ZeroDivisionError("oops"), 70, "bug", "this is a bug of kcircuits: ZeroDivisionError: oops"),
]


@pytest.mark.usefixtures("boom")
@pytest.mark.parametrize(("error", "exit_code", "code", "message"), ERRORS)
def test_each_error_has_its_exit_code_and_no_traceback(
    error: BaseException,
    exit_code: int,
    code: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    RAISED.append(error)
    assert main(["boom"]) == exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    RAISED.append(error)
    assert main(["boom", "--json"]) == exit_code
    out, err = capsys.readouterr()
    told = json.loads(out)["error"]
    assert set(told) == {"code", "message", "file", "field", "line", "hint"}
    assert (told["code"], told["message"]) == (code, message)
    assert err == ""


@pytest.mark.usefixtures("boom")
def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    RAISED.append(ZeroDivisionError("oops"))
    assert main(["boom", "--debug"]) == 70
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (["manifets"], "there is no verb 'manifets'", "did you mean kcircuits manifest?"),
        (["zzz"], "there is no verb 'zzz'", "the verbs are "),
        (["--nonsense"], "unrecognized arguments: --nonsense", "see kcircuits --help"),
        (["manifest"], "the following arguments are required: VERB", "see kcircuits manifest"),
        (["manifest", "chek"], "invalid choice: 'chek'", "see kcircuits manifest --help"),
        (
            ["manifest", "show", "--jso"],
            "unrecognized arguments: --jso",
            "see kcircuits manifest show --help",
        ),
        (["manifest", "init"], "required: TRAIN_DIR", "see kcircuits manifest init --help"),
        (["boom", "--n-edges", "x"], "invalid int value: 'x'", "see kcircuits boom --help"),
        (["boom", "--n-edges", "3", "--fraction", "0.1"], "not allowed with", "see kcircuits boom"),
    ],
)
@pytest.mark.usefixtures("boom")
def test_usage_errors_exit_2(
    args: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert hint in err
    assert main([*args, "--json"]) == 2
    told = json.loads(capsys.readouterr().out)["error"]
    assert told["code"] == "usage"
    assert message in told["message"]
    assert hint in told["hint"]


@pytest.mark.usefixtures("boom")
def test_flags_before_the_verb_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quiet", "boom"]) == 0
    assert SEEN[0].quiet


@pytest.mark.usefixtures("boom")
def test_flag_over_environment_over_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KCIRCUITS_RUN", "from-env")
    monkeypatch.setenv("KCIRCUITS_N_EDGES", "7")
    monkeypatch.setenv("KCIRCUITS_QUIET", "1")
    monkeypatch.setenv("KCIRCUITS_JSON", "0")
    assert main(["boom"]) == 0
    assert (SEEN[0].run_dir, SEEN[0].n_edges) == (Path("from-env"), 7)
    assert SEEN[0].quiet
    assert not SEEN[0].json
    assert SEEN[0].manifest is None
    assert main(["boom", "--run", "given", "--fraction", "0.1"]) == 0
    assert (SEEN[0].run_dir, SEEN[0].n_edges) == (Path("given"), None)


@pytest.mark.usefixtures("boom")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("KCIRCUITS_N_EDGES", "x", "invalid int value: 'x'"),
        ("KCIRCUITS_FRACTION", "0.3", "invalid choice: 0.3"),
        ("KCIRCUITS_QUIET", "perhaps", "KCIRCUITS_QUIET='perhaps' is neither on nor off"),
        ("KCIRCUITS_JSON", "perhaps", "KCIRCUITS_JSON='perhaps' is neither on nor off"),
    ],
)
def test_bad_environment_exits_2(
    name: str,
    value: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["boom"]) == 2
    assert message in capsys.readouterr().err


def test_help_lists_exactly_the_verbs_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert f"\n    {name}" in text
        assert verb.summary.split()[0] in text
        assert main([name, "--help"]) == 0
    assert main([]) == 0
    assert main(["--version"]) == 0


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from kcircuits.cli.main import main; main(['--help']); "
        "heavy = {'torch', 'numpy', 'pydantic', 'plotly', 'yaml', 'networkx'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    """The reader of stdout is gone before anything is written."""
    text = "schema_version: 1\nrun: r\nbase_model: b\nfacts: f\ncheckpoints: [{id: a, path: a}]"
    (tmp_path / "m.yaml").write_text(text)
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", "kcircuits", "manifest", "show", tmp_path / "m.yaml"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write_end)
    assert done.stderr == ""
    assert done.returncode == 7


def test_text_survives_an_ascii_terminal(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kcircuits", "facts", "check", "Zoë"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 3
    assert "Zo\\xeb: no such file" in done.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢 א", "plain é 漢 א"),
        ("a\x1b[31mred", "a\\x1b[31mred"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("\u2066\u2069\u200b\ufeff", "\\u2066\\u2069\\u200b\\ufeff"),
        ("a\r\n\tb\0\x7f\x9b", "a\\r\\n\\tb\\x00\\x7f\\x9b"),
        ("\u2028\udc80\U000e0001", "\\u2028\\udc80\\U000e0001"),
    ],
)
def test_printable_escapes_control_and_direction_characters(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.usefixtures("boom")
def test_errors_are_printed_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    RAISED.append(UsageError("\x1b[2J \u202e", hint="\x07"))
    main(["boom"])
    err = capsys.readouterr().err
    assert "\\x1b[2J \\u202e\n  remedy: \\x07" in err


def test_table_aligns_by_width_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "n", "x"], [["漢字", 1, None], ["e\u0301", 22, None]])
    assert capsys.readouterr().out == "name   n  x\n漢字   1  -\ne\u0301     22  -\n"


def test_styles_need_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert styled("x", "red") == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert styled("x", "red") == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert styled("x", "red") == "x"


def test_console_script_is_the_frame() -> None:
    assert frame.main is main
    done = subprocess.run(
        [sys.executable, "-m", "kcircuits", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("kcircuits ")
