"""``kcircuits lab known`` as a user sees it; no model is run."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import kcircuits as kc
from kcircuits import models
from kcircuits.cli.main import main
from kcircuits.lab.real import known_facts
from kcircuits.lab.real.real_facts import real_facts
from tests.contracts.test_known_facts import FEW, learned_tokenizer

# Of these nothing is known, and of those every fact has the same gap.
UNKNOWN, GAP = "language", 2.5


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A request about a model that knows all but one relation."""
    tokenizer = learned_tokenizer(2500)
    pool = real_facts(tokenizer, 0, FEW)
    monkeypatch.setattr(known_facts, "real_facts", lambda *_: pool)
    monkeypatch.setattr(
        known_facts, "_known", lambda _m, facts, _use: [f for f in facts if f.relation != UNKNOWN]
    )
    monkeypatch.setattr(known_facts, "_gaps", lambda _, facts: {f.id: GAP for f in facts})
    monkeypatch.setattr(models, "load_model", lambda _: SimpleNamespace(tokenizer=tokenizer))
    return ["lab", "known", "--model", str(tmp_path), "--out", str(tmp_path / "new" / "f.jsonl")]


def test_the_file_holds_what_the_table_counts(
    asked: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "fetch_model", Path)
    assert main([*asked, "--n", "9", "--json", "--quiet"]) == 0
    told, err = capsys.readouterr()
    content: dict[str, Any] = json.loads(told)
    assert err == ""
    facts = kc.load_facts(content["out"])
    assert (content["schema"], content["facts"], len(facts)) == ("kcircuits.lab-known/1", 9, 9)
    rows = {row["relation"]: row for row in content["rows"]}
    assert set(rows) == {relation.name for relation in FEW}
    drawn = Counter(fact.relation for fact in facts)
    several = Counter(f.relation for f in facts if f.strata["answer_tokens"] == "several")
    for name, row in rows.items():
        assert (row["drawn"], row["several"]) == (drawn[name], several[name])
        assert row["known"] == (0 if name == UNKNOWN else row["pool"])
        assert row["gap"] == (None if name == UNKNOWN else GAP)
    assert main([*asked, "--n", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["relation", "pool", "known", "drawn", "several", "gap"]
    assert lines[-1] == f"wrote {content['out']}: 9 facts"
    assert kc.load_facts(content["out"]) == facts


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--n", "0"], "n is 0; expected 1 or more"),
        (["--seed", "-1"], "seed is -1; expected 0 or more"),
        (["--n", "some"], "--n"),
        (["--out", "."], "that is a folder"),
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_bad_requests_are_told_before_a_model_is_loaded(
    asked: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changed: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(models, "load_model", lambda _: pytest.fail("worked for nothing"))
    assert main([*asked, *changed]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_too_few_known_facts_leave_no_file(
    asked: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "fetch_model", Path)
    assert main([*asked, "--n", "500"]) == 2
    assert "choose a larger model" in capsys.readouterr().err
    assert not Path(asked[-1]).exists()
