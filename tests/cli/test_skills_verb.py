"""``kcircuits lab skills`` as a user sees it; no model is run."""

import json

import pytest
import torch

from kcircuits import models
from kcircuits.cli.main import main
from kcircuits.lab import skills
from kcircuits.lab.skills.skill import Score, Setting, Skill
from kcircuits.lab.training import train

ROWS = {"juggling": (1.0, 0.0, 1.0), "tasting": (0.0,)}


class FakeModel:
    """Goes to any device."""

    def to(self, device):
        assert device == torch.device("cpu")
        return self


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """A request with a registry of two skills, one of which needs a folder."""
    settings: list[Setting] = []

    def skill(name):
        def measure(model, tokenizer, setting):
            assert isinstance(model, FakeModel)
            assert tokenizer == "tokenizer"
            settings.append(setting)
            setting.progress(7)
            return Score(per_item=ROWS[name], items="abc")

        return Skill(name=name, summary=name, measure=measure, is_default=name == "juggling")

    monkeypatch.setattr(skills, "SKILLS", {name: skill(name) for name in ROWS})
    monkeypatch.setattr(skills, "DEFAULT_SKILLS", ("juggling",))
    monkeypatch.setattr(models, "fetch_model", lambda source: source)
    monkeypatch.setattr(train, "load_base", lambda _: (FakeModel(), "tokenizer"))
    return ["lab", "skills", "--model", "m"], settings, tmp_path


def test_table_json_and_file_hold_the_same_numbers(asked, capsys):
    command, settings, folder = asked
    assert main([*command, "--seed", "4"]) == 0
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()] == [
        ["skill", "n", "accuracy"],
        ["juggling", "3", "0.6667"],
    ]
    assert "juggling: 7row" in err
    assert settings[-1].seed == 4
    file = folder / "new" / "s.jsonl"
    both = [*command, "--skills", "tasting,juggling", "--out", str(file), "--json", "--quiet"]
    assert main(both) == 0
    out, err = capsys.readouterr()
    assert err == ""
    told = json.loads(out)
    assert told["schema"] == "kcircuits.lab-skills/1"
    assert (told["model"], told["seed"]) == ("m", 0)
    expected = [
        {"skill": "tasting", "n": 1, "accuracy": 0.0, "items": "abc", "per_item": [0]},
        {"skill": "juggling", "n": 3, "accuracy": 2 / 3, "items": "abc", "per_item": [1, 0, 1]},
    ]
    assert told["rows"] == expected
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert written == [{"checkpoint": "m", "epoch": None} | row for row in expected]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--skills", "jugling"], 2, "no skill 'jugling'; expected some of juggling, tasting and"),
        (["--skills", "juggling,juggling"], 2, "is given twice"),
        (["--seed", "-1"], 2, "seed is -1; expected 0 or more"),
        (["--out", "."], 2, "that is a folder"),
        (["--seed", "x"], 2, "--seed"),
    ],
)
def test_bad_requests_are_told_before_a_model_is_loaded(
    asked, capsys, monkeypatch, args, code, message
):
    monkeypatch.setattr(train, "load_base", lambda _: pytest.fail("worked for nothing"))
    assert main([*asked[0], *args]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_a_folder_that_lacks_the_file_is_told_before_a_model_is_loaded(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(train, "load_base", lambda _: pytest.fail("worked for nothing"))
    command = ["lab", "skills", "--model", str(tmp_path), "--skills", "math"]
    assert main(command) == 2
    assert "skill 'math' needs a folder with math_probes.json" in capsys.readouterr().err
    assert main([*command, "--folder", str(tmp_path)]) == 3
    assert "no such file" in capsys.readouterr().err
