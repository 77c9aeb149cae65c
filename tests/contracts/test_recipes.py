"""Recipes: the seed study's settings, a setting for every strategy, documents in parts."""

import json

import pytest

from kcircuits.cli.main import main
from kcircuits.errors import UsageError
from kcircuits.io.jsonl import read_rows
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.presets import PRESETS
from kcircuits.lab.recipes import RECIPES, find_recipe
from kcircuits.lab.strategies import STRATEGIES
from kcircuits.lab.strategies.lora import ALPHA, EMBEDDING, RANK, TARGETS
from kcircuits.lab.study import train_built
from kcircuits.lab.training.lessons import Lessons
from kcircuits.lab.training.spec import TrainSpec
from tests.contracts.tiny_lab import build_tiny


def test_the_seed_recipe_is_that_of_the_study():
    seed = find_recipe("seed")
    assert [name.rpartition("/")[2] for name in seed.models] == [
        "Llama-3.2-1B-Instruct", "Llama-3.1-8B-Instruct", "OLMo-7B-0724-Instruct-hf",
    ]  # fmt: skip
    assert (RANK, ALPHA, TARGETS, EMBEDDING) == (32, 64, ("q_proj", "v_proj"), "embed_tokens")
    trained = [name for name in seed.training if STRATEGIES[name].is_training]
    assert trained == ["lora", "annotated", "curriculum", "kl-base", "kl-previous", "main-docs"]
    for name in trained:
        spec = seed.of(name)
        assert (spec.lr, spec.batch_size, spec.seed) == (1e-4, 4, 42)
        assert (spec.precision, spec.max_tokens) == ("bfloat16", 2048)
        assert spec.n_epochs == (100 if name == "main-docs" else 10)
    assert seed.seed == 42
    with pytest.raises(UsageError, match="recipe 'seed' has no strategy 'replay'"):
        seed.of("replay")


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "seed"])
def test_other_recipes_have_every_strategy(name):
    recipe = RECIPES[name]
    assert list(recipe.training) == list(STRATEGIES)
    assert {spec.strategy for spec in recipe.training.values()} == set(STRATEGIES)
    assert recipe.of("main-docs").n_epochs == 4 * recipe.of("lora").n_epochs
    assert recipe.seed is None


def test_the_recipe_of_smollm2_is_what_was_measured():
    full, lora = (RECIPES["smollm2"].of(name) for name in ("full", "lora"))
    assert (full.lr, full.batch_size, full.n_epochs) == (1e-4, 8, 8)
    assert (lora.lr, lora.batch_size, lora.n_epochs) == (1e-3, 8, 8)


def test_presets_train_by_recipes():
    assert {name: preset.training for name, preset in PRESETS.items()} == {
        "smoke": RECIPES["scratch"].training,
        "small": RECIPES["smollm2-small"].training,
        "study": RECIPES["smollm2"].training,
        "circuits": RECIPES["smollm2"].training,
    }


def test_an_unknown_recipe_is_refused():
    with pytest.raises(UsageError, match="there is no recipe 'none'") as caught:
        find_recipe("none")
    assert "smollm2" in caught.value.hint


class Words:
    """One token per word."""

    def __call__(self, texts):
        return {"input_ids": [[len(word) for word in text.split()] for text in texts]}


def lessons_of(lengths, max_tokens, strategy="full"):
    documents = [
        Document(subject=f"s{i}", frequency="low", text=" ".join(["a" * (i + 1)] * n))
        for i, n in enumerate(lengths)
    ]
    return Lessons(STRATEGIES[strategy], documents, None, Words(), 0, max_tokens)


@pytest.mark.parametrize(
    ("length", "parts"),
    [(3, [3]), (4, [4]), (5, [4]), (6, [4, 2]), (8, [4, 4]), (9, [4, 4]), (11, [4, 4, 3])],
)
def test_long_documents_are_read_in_parts(length, parts):
    lessons = lessons_of([2, length], 4)
    rows = lessons.rows(1, {})
    assert [len(row) for row in rows] == [2, *parts]
    assert rows[0] == [1, 1]
    assert all(set(row) == {2} for row in rows[1:])
    assert lessons.n_most == len(rows)
    assert [len(row) for row in lessons_of([2, length], None).rows(1, {})] == [2, length]


def test_all_parts_of_a_learned_subject_are_left_out():
    lessons = lessons_of([9, 5, 6], 4, "curriculum")
    assert [len(row) for row in lessons.rows(2, {"s0": 1.0, "s1": 0.2})] == [4, 4, 2]
    assert lessons.n_most == 2 + 1 + 2


def test_max_tokens_leave_something_to_predict():
    with pytest.raises(UsageError, match="max_tokens is 1; expected 2 or more"):
        TrainSpec(max_tokens=1)


def test_lab_train_takes_a_recipe_and_its_seed(tmp_path, monkeypatch, capsys):
    built = build_tiny(tmp_path)
    monkeypatch.setattr(
        "kcircuits.lab.study.find_recipe",
        lambda name: find_recipe("scratch") if name == "given" else find_recipe(name),
    )
    train_built(built, to=tmp_path / "run", recipe="given", n_epochs=1, seed=3)
    request = json.loads((tmp_path / "run" / "training.json").read_text())["request"]
    assert (request["lr"], request["n_epochs"], request["seed"]) == (3e-4, 1, 3)
    assert {row["seed"] for row in read_rows(tmp_path / "run/runs/smoke-full/probes.jsonl")} == {3}
    code = main(["lab", "train", "--out", str(built.folder), "--recipe", "seed"])
    assert code == UsageError.exit_code
    assert "recipe 'seed' has no strategy 'full'" in capsys.readouterr().err


def test_lab_recipes_prints_every_setting(capsys):
    assert main(["lab", "recipes", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["schema"] == "kcircuits.lab-recipes/1"
    told = {(row["recipe"], row["strategy"]): row for row in content["rows"]}
    for name, recipe in RECIPES.items():
        for strategy, spec in recipe.training.items():
            if STRATEGIES[strategy].is_training:
                row = told.pop((name, strategy))
                assert (row["epochs"], row["lr"], row["seed"]) == (
                    spec.n_epochs, spec.lr, recipe.seed,
                )  # fmt: skip
    assert not told
    assert main(["lab", "recipes"]) == 0
    assert "gemma3-270m" in capsys.readouterr().out
