"""``load_manifest`` reads what it must and refuses the rest with message, field and line."""

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kcircuits.cli.main import main
from kcircuits.errors import FileAccessError, ManifestError
from kcircuits.io.manifest import load_manifest, write_manifest

GOOD = """\
schema_version: 1
run: lora-1b
base_model: SmolLM2-135M-Instruct
facts: data/facts.jsonl
checkpoints:
  - id: ep0
    epoch: 0
    path: base
  - id: ep0.5
    epoch: 0.5
    step: 12
    path: base
    adapter: adapters/a
    sha256: {sha}
    identity: true
  - {{id: last-one, path: ../elsewhere}}
""".format(sha="0f" * 32)

# name: (text to replace, replacement, field, line, part of the message)
EDITS = {
    "unknown field": ("run: l", "rum: x\nrun: l", "rum", 2, "unknown field 'rum'"),
    "missing run": ("run: lora-1b\n", "", "run", 1, "required field 'run' is missing"),
    "missing facts": ("facts: data/facts.jsonl\n", "", "facts", 1, "'facts' is missing"),
    "missing base": ("base_model: S", "# S", "base_model", 1, "'base_model' is missing"),
    "missing version": ("schema_version: 1\n", "", "schema_version", 1, "is missing"),
    "newer version": ("version: 1", "version: 2", "schema_version", 1, "schema_version 2 is not"),
    "version as text": ("version: 1", "version: '1'", "schema_version", 1, "valid integer"),
    "version is true": ("version: 1", "version: true", "schema_version", 1, "valid integer"),
    "run is a number": ("run: lora-1b", "run: 7", "run", 2, "run is 7, should be a valid string"),
    "run is yes": ("run: lora-1b", "run: yes", "run", 2, "run is True, should be a valid string"),
    "run climbs": ("run: lora-1b", "run: ../x", "run", 2, "cannot name a folder"),
    "run with a slash": ("run: lora-1b", "run: a/b", "run", 2, "'a/b' cannot name a folder"),
    "run hidden": ("run: lora-1b", "run: .x", "run", 2, "cannot name a folder"),
    "run empty": ("run: lora-1b", "run: ''", "run", 2, "'' cannot name a folder"),
    "run too long": ("run: lora-1b", f"run: {'x' * 101}", "run", 2, "cannot name a folder"),
    "no checkpoints": (
        GOOD[GOOD.index("  - id: ep0\n") :],
        "  []\n",
        "checkpoints",
        5,
        "at least 1",
    ),
    "checkpoints a map": (
        GOOD[GOOD.index("  - id: ep0\n") :],
        "  a: 1\n",
        "checkpoints",
        5,
        "list",
    ),
    "id twice": ("id: ep0.5", "id: ep0", "checkpoints[1].id", 9, "'ep0' is given twice"),
    "id with comma": ("id: ep0\n", "id: 'a,b'\n", "checkpoints[0].id", 6, "cannot be used in ref"),
    "id with dots": ("id: ep0\n", "id: a..b\n", "checkpoints[0].id", 6, "cannot be used in ref"),
    "id reserved": ("id: ep0\n", "id: first\n", "checkpoints[0].id", 6, "cannot be used in ref"),
    "id a number": ("id: ep0\n", "id: 0\n", "checkpoints[0].id", 6, "should be a valid string"),
    "epoch falls": ("epoch: 0.5", "epoch: 0", "checkpoints[1].epoch", 10, "does not come after"),
    "epoch negative": ("epoch: 0\n", "epoch: -1\n", "checkpoints[0].epoch", 7, "greater than or"),
    "epoch as text": ("epoch: 0\n", "epoch: zero\n", "checkpoints[0].epoch", 7, "valid number"),
    "epoch is true": ("epoch: 0\n", "epoch: true\n", "checkpoints[0].epoch", 7, "valid number"),
    "epoch nan": ("epoch: 0\n", "epoch: .nan\n", "checkpoints[0].epoch", 7, "finite number"),
    "epoch infinite": ("epoch: 0\n", "epoch: .inf\n", "checkpoints[0].epoch", 7, "finite number"),
    "step a fraction": ("step: 12", "step: 1.5", "checkpoints[1].step", 11, "valid integer"),
    "step falls": (
        "path: ../e",
        "step: 3, path: ../e",
        "checkpoints[2].step",
        16,
        "before step 12",
    ),
    "path missing": ("    path: base\n  -", "  -", "checkpoints[0].path", 6, "is missing"),
    "path empty": ("path: base\n  -", "path: ''\n  -", "checkpoints[0].path", 8, "at least 1"),
    "path with tab": ("path: base\n  -", 'path: "a\\tb"\n  -', "checkpoints[0].path", 8, "control"),
    "path null": ("path: base\n  -", "path:\n  -", "checkpoints[0].path", 8, "valid string"),
    "sha too short": ("sha256: 0f", "sha256: 'f", None, None, ""),
    "sha in capitals": ("0f" * 32, "0F" * 32, "checkpoints[1].sha256", 14, "should match pattern"),
    "identity alone": (
        "    adapter: adapters/a\n",
        "",
        "checkpoints[1].identity",
        14,
        "no adapter",
    ),
    "identity as text": ("y: true", "y: 'true'", "checkpoints[1].identity", 15, "valid boolean"),
    "key twice": ("run: l", "run: x\nrun: l", "run", 3, "'run' is given twice, first in line 2"),
    "nested key twice": ("epoch: 0\n", "epoch: 0\n    id: x\n", "id", 8, "'id' is given twice"),
    "anchor": ("run: lora", "run: &a lora", None, 2, "anchors and aliases ('a') are not allowed"),
    "alias": ("run: lora-1b", "run: *a", None, 2, "anchors and aliases ('a') are not allowed"),
    "merge": ("run: lora-1b", "<<: {run: x}", None, 2, "merge keys (<<) are not allowed"),
    "python tag": ("run: l", "run: !!python/object/apply:os.system l", None, 2, "python/object"),
    "own tag": ("run: l", "run: !x l", None, 2, "tags ('!x') are not allowed"),
    "tab indent": ("    epoch: 0\n", "\tepoch: 0\n", None, 7, "is not YAML"),
    "unclosed": ("run: lora-1b", "run: 'lora", None, 17, "is not YAML"),
    "colon": ("run: lora-1b", "run: a: b", None, 2, "mapping values are not allowed"),
    "too deep": ("run: lora-1b", "run: " + "[" * 25 + "]" * 25, None, 2, "deeper than 20 levels"),
    "two documents": ("checkpoints:", "---\ncheckpoints:", None, 5, "more than one YAML document"),
    "compound key": ("run: lora-1b", "? [a]\n: b", None, 2, "compound keys are not allowed"),
    "number as key": ("run: l", "7: x\nrun: l", None, 2, "key '7' is not text"),
    "control character": ("run: l", "run: \x07l", None, 2, "U+0007 is not allowed in YAML"),
    "escaped NUL": ("run: lora-1b", 'run: "a\\0b"', None, 2, "text holds U+0000 (NUL)"),
    "lone surrogate": ("run: lora-1b", 'run: "\\ud800"', None, 2, "U+D800 (a lone surrogate)"),
    "no such date": ("run: lora-1b", "run: 2023-13-45", None, 2, "cannot be read"),
    "endless number": ("run: lora-1b", f"run: {'9' * 5000}", None, 2, "cannot be read"),
    "value tag": ("run: lora-1b", "run: =", None, 2, "is not YAML"),
    "latin-1": ("run: lora", b"run: l\xf6ra", None, 2, "byte 0xf6 is not UTF-8"),
}
EDITS["sha too short"] = ("0f" * 32, "'f0'", "checkpoints[1].sha256", 14, "should match pattern")

# name: (whole content, line, part of the message)
CONTENTS = {
    "empty": (b"", 1, "is empty"),
    "only a comment": (b"# nothing\n", 1, "is empty"),
    "null": (b"~\n", 1, "is None, not a set of fields"),
    "a list": (b"- a\n", 1, "not a set of fields"),
    "a word": (b"hello\n", 1, "is 'hello', not a set of fields"),
    "UTF-16": ("run: x".encode("utf-16"), 1, "is not UTF-8"),
    "binary": (bytes(range(256)), 2, "is not UTF-8"),
    "NUL bytes": (b"run: \0\0", 1, "U+0000 is not allowed"),
    "too large": (b"#" * 1_000_001, None, "is larger than 1,000,000 bytes"),
    "open brackets": (b"[" * 500_000, 1, "deeper than 20 levels"),
}


def edited(name: str) -> bytes:
    old, new = EDITS[name][:2]
    assert GOOD.count(old) >= 1, old
    if isinstance(new, bytes):
        return GOOD.encode().replace(old.encode(), new, 1)
    return GOOD.replace(old, new, 1).encode()


BAD = {name: (edited(name), *edit[2:]) for name, edit in EDITS.items()}
BAD |= {name: (content, None, line, text) for name, (content, line, text) in CONTENTS.items()}


@pytest.fixture
def bad_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "m.yaml"
    path.write_bytes(BAD[request.param][0])
    return path


@pytest.mark.parametrize(
    ("bad_file", "name"), [(n, n) for n in BAD], ids=BAD, indirect=["bad_file"]
)
def test_load_manifest_refuses(bad_file: Path, name: str) -> None:
    _, field, line, message = BAD[name]
    with pytest.raises(ManifestError) as caught:
        load_manifest(bad_file)
    error = caught.value
    assert message in error.message
    assert (error.field, error.line) == (field, line)
    assert error.file == str(bad_file)


@pytest.mark.parametrize("bad_file", BAD, indirect=True)
def test_show_exits_3_without_traceback(bad_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manifest", "show", str(bad_file), "--json"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "manifest"
    assert err == ""
    assert main(["manifest", "show", str(bad_file)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_load_manifest_resolves_paths_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(GOOD)
    manifest = load_manifest(tmp_path / "m.yaml")
    assert manifest.epochs == ("ep0", "ep0.5", "last-one")
    assert manifest.facts == tmp_path / "data/facts.jsonl"
    assert manifest["ep0.5"].adapter == tmp_path / "adapters/a"
    assert manifest["ep0.5"].is_identity
    assert manifest["ep0.5"].epoch == 0.5
    assert manifest["last"].path == tmp_path.parent / "elsewhere"
    assert manifest["first"].sha256 is None


@pytest.mark.parametrize(
    "change",
    [lambda t: b"\xef\xbb\xbf" + t, lambda t: t.replace(b"\n", b"\r\n")],
    ids=["BOM", "CRLF"],
)
def test_load_manifest_accepts(change, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(change(GOOD.encode()))
    assert len(load_manifest(tmp_path / "m.yaml").checkpoints) == 3


def test_ids_equal_under_nfc_collide(tmp_path: Path) -> None:
    # ANGSTROM SIGN and LATIN CAPITAL LETTER A WITH RING ABOVE are one letter under NFC.
    text = GOOD.replace("id: ep0\n", "id: \u212b\n").replace("id: ep0.5", "id: \u00c5")
    (tmp_path / "m.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match="is given twice") as caught:
        load_manifest(tmp_path / "m.yaml")
    assert (caught.value.field, caught.value.line) == ("checkpoints[1].id", 9)


def test_a_misspelt_field_is_named_with_its_correction(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(GOOD.replace("adapter:", "adaptor:"))
    with pytest.raises(ManifestError) as caught:
        load_manifest(tmp_path / "m.yaml")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("did you mean adapter?")


def test_missing_file_folder_and_pipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        load_manifest(tmp_path / "absent.yaml")
    with pytest.raises(ManifestError, match="is a folder"):
        load_manifest(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ManifestError, match="not a regular file"):
        load_manifest(tmp_path / "pipe")


def test_write_manifest_round_trip(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(GOOD)
    manifest = load_manifest(tmp_path / "m.yaml")
    write_manifest(manifest, tmp_path / "sub/n.yaml")
    again = load_manifest(tmp_path / "sub/n.yaml")
    assert again == replace(manifest, path=again.path)
    assert "path: ../base" in (tmp_path / "sub/n.yaml").read_text()
    assert str(tmp_path) not in (tmp_path / "sub/n.yaml").read_text()


def test_write_manifest_keeps_far_paths_absolute(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(
        GOOD.replace("path: base\n    adapter", "path: /models/x\n    adapter")
    )
    manifest = load_manifest(tmp_path / "m.yaml")
    write_manifest(manifest, tmp_path / "n.yaml")
    assert "path: /models/x" in (tmp_path / "n.yaml").read_text()


def test_write_manifest_refuses_what_load_would_refuse(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(GOOD)
    manifest = load_manifest(tmp_path / "m.yaml")
    with pytest.raises(ManifestError, match="cannot name a folder"):
        write_manifest(replace(manifest, run="a/b"), tmp_path / "n.yaml")
    with pytest.raises(ManifestError, match="does not come after"):
        write_manifest(
            replace(manifest, checkpoints=manifest.checkpoints[::-1]), tmp_path / "n.yaml"
        )
    assert not (tmp_path / "n.yaml").exists()


def test_write_manifest_names_the_file_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(GOOD)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileAccessError) as caught:
        write_manifest(load_manifest(tmp_path / "m.yaml"), tmp_path / "file/n.yaml")
    assert caught.value.exit_code == 7


FRAGMENTS = st.lists(
    st.sampled_from(
        [*GOOD.splitlines(keepends=True), "- ", "? ", ": ", "&a ", "*a", "!!int ", "<<: ", "'", '"',
         "{", "}", "[", "]", "|\n", "%YAML 1.1\n", "---\n", "0x", "1_0", "1:2:3", "\x85", "\\u",
         "="]
    ),
    max_size=12,
).map("".join)  # fmt: skip


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200) | FRAGMENTS.map(str.encode))
def test_any_bytes_give_a_manifest_or_a_user_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(content)
    with contextlib.suppress(ManifestError):
        load_manifest(tmp_path / "m.yaml")
