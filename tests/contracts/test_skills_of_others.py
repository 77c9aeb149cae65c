"""The seed study's sets and tasks of the lm-evaluation-harness."""

import copy
import json
import math

import numpy as np
import pytest
import torch

from kcircuits.errors import InputError, UsageError
from kcircuits.lab.skills import harness as harness_module
from kcircuits.lab.skills import measure_skills
from kcircuits.lab.skills.commonsense import commonsense_items
from kcircuits.lab.skills.seed_sets import SeedSet, extract
from tests.contracts.test_skills import model, rng, tokenizer

__all__ = ["model", "tokenizer"]  # the fixtures


MATH = SeedSet(name="m", summary="", file="", instruction="")
LETTERS = SeedSet(name="l", summary="", file="", instruction="", letters="ABC", first=1)
MMLU = SeedSet(name="u", summary="", file="", instruction="", letters="ABCD")


@pytest.mark.parametrize(
    ("seed_set", "answer", "expected"),
    [
        (MATH, "The answer is 42, not 7.", "42"),
        (MATH, "-5", "5"),
        (MATH, "six", "six"),
        (LETTERS, "The answer is B. go home", "2"),
        (LETTERS, "Cats", "3"),
        (LETTERS, "2", "2"),
        (LETTERS, "D", "D"),
        (MMLU, "D) all of them", "3"),
        (MMLU, "A", "0"),
    ],
)
def test_answers_are_extracted_as_in_the_seed_study(seed_set, answer, expected):
    assert extract(seed_set, answer) == expected


def write_seed_files(folder):
    math_probes = {"0": {"question": "What is 1 + 2?", "answer": 3, "type": "sum"}}
    mmlu = [{"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 3, "subject": "s"}]
    social = {"context": "He won.", "question": "How is he?", "type": "easy", "answer": "2"}
    social |= {"answerA": "sad", "answerB": "glad", "answerC": "ill"}
    for name, content in [
        ("math_probes", math_probes),
        ("mmlu_probes", mmlu),
        ("reasoning_probes", [social]),
    ]:
        (folder / f"{name}.json").write_text(json.dumps(content))


def test_seed_sets_are_asked_with_their_instruction(tmp_path, monkeypatch, model, tokenizer):
    from kcircuits.lab.skills import seed_sets

    write_seed_files(tmp_path)
    asked = []
    told = {"math": "It is 4.", "mmlu": "D", "social-iqa": "B, glad"}
    monkeypatch.setattr(
        seed_sets,
        "question_tokens",
        lambda _, question, instruction: asked.append((instruction, question)) or [2],
    )
    monkeypatch.setattr(seed_sets, "generate", lambda _, prompts, **__: [[] for _ in prompts])
    for name, answer in told.items():
        monkeypatch.setattr(seed_sets, "answer_text", lambda *_, answer=answer: answer)
        (row,) = measure_skills(model, tokenizer, [name], folder=tmp_path)
        assert (row["n"], row["accuracy"]) == (1, float(name != "math"))
    brief = "Be brief. Do not add any explanation. Only "
    assert asked == [
        (brief + "provide the final result without the equation.", "What is 1 + 2?"),
        (brief + "answer with 'A', 'B', 'C', or 'D'.", "Q: Which?\nA. a\nB. b\nC. c\nD. d"),
        (
            brief + "answer with 'A', 'B', or 'C'.",
            "Context: He won. Q: How is he?\nA. sad\nB. glad\nC. ill",
        ),
    ]


def test_seed_files_of_another_form_are_refused(tmp_path, tokenizer):
    names = ["math", "mmlu", "social-iqa"]
    for name in names:
        with pytest.raises(InputError, match="no such file"):
            measure_skills(None, tokenizer, [name], folder=tmp_path)
    for file in ("math_probes.json", "mmlu_probes.json", "reasoning_probes.json"):
        (tmp_path / file).write_text('["x"]')
    for name in names:
        with pytest.raises(InputError, match="does not have the form"):
            measure_skills(None, tokenizer, [name], folder=tmp_path)
    (tmp_path / "math_probes.json").write_text("{\n")
    with pytest.raises(InputError, match="is not JSON"):
        measure_skills(None, tokenizer, names[:1], folder=tmp_path)


@pytest.mark.shared
def test_seed_sets_of_the_released_data(shared_dir, model, tokenizer):
    folder = shared_dir / "knowledge-dynamics" / "data"
    math_row, social = measure_skills(
        model, tokenizer, ["math", "social-iqa"], folder=folder, batch_size=64
    )
    assert (math_row["n"], social["n"]) == (264, 100)
    # A random model knows nothing; the released file gives exact shares of these counts.
    file = shared_dir / "knowledge-dynamics/output/llama3-i-1b/baseline"
    released = json.loads((file / "control_probes_results.json").read_text())
    for name, n in [("math", 264), ("SocialIQA", 100)]:
        hits = released[name]["exact_match"] * n
        assert math.isclose(hits, round(hits), abs_tol=1e-9)


def test_harness_tasks_need_the_extra(monkeypatch, model, tokenizer):
    monkeypatch.setattr(harness_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="not installed") as caught:
        measure_skills(model, tokenizer, ["harness:arc_easy"])
    assert "kcircuits[harness]" in caught.value.hint


def local_task(folder, items):
    """A task of the harness with the same items as one of our skills."""
    rows = [
        {"prompt": i.prompt, "options": [o.strip() for o in i.options], "answer": i.answer}
        for i in items
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.yaml").write_text(
        f"""task: ours
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder / "items.jsonl"}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the harness's own and those of what it imports
def test_a_local_harness_task_runs_offline_and_agrees_with_ours(
    tmp_path, monkeypatch, model, tokenizer
):
    pytest.importorskip("lm_eval", reason="the extra kcircuits[harness] is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    local_task(tmp_path, commonsense_items(tokenizer, rng()))
    model = copy.deepcopy(model).float().train()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    weights = {name: p.clone() for name, p in model.named_parameters()}
    ours, theirs = measure_skills(
        model, tokenizer, ["commonsense", "harness:ours"], include_path=tmp_path
    )
    assert theirs["per_item"] == ours["per_item"]
    assert theirs["accuracy"] == ours["accuracy"]
    assert model.training
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())
    with pytest.raises(UsageError, match="no task 'nonsense'"):
        measure_skills(model, tokenizer, ["harness:nonsense"], include_path=tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        measure_skills(model, tokenizer, ["harness:ours"], include_path=tmp_path / "none")


def test_nobody_ties_weights_inside_a_harness_task():
    class Model:
        def tie_weights(self):
            raise AssertionError

    model = Model()
    with harness_module._untied(model):
        model.tie_weights()
    assert "tie_weights" not in vars(model)


def test_harness_metrics_are_accuracies():
    samples = [{"exact_match": 1.0, "f1": 0.2}, {"exact_match": 0.0, "f1": 0.1}]
    assert harness_module._metric("harness:x", samples) == "exact_match"
    with pytest.raises(UsageError, match="none of acc, exact_match"):
        harness_module._metric("harness:x", [{"f1": 0.2}])
