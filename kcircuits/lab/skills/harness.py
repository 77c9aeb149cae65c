"""Any task of the lm-evaluation-harness as a skill: ``harness:NAME``, by name or from local YAML.

Offline where the task's data are: a YAML file with ``dataset_path: json`` and ``data_files``, in a
folder that ``include_path`` names. The extra ``kcircuits[harness]`` brings the library, which is
imported when a task is asked for.
"""

import copy
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kcircuits.errors import UsageError
from kcircuits.lab.skills.skill import Score, Setting, Skill, items_hash
from kcircuits.lab.training.undisturbed import undisturbed

PREFIX = "harness:"
INSTALL = "pip install -c constraints.txt 'kcircuits[harness]'"

# The first of these that a task computes is its accuracy.
METRICS = ("acc", "exact_match")


def harness_skill(name: str) -> Skill:
    """The skill ``harness:NAME``."""
    task = name.removeprefix(PREFIX)

    def check(setting: Setting) -> object:
        return _load(task, setting)

    def measure(model: Any, tokenizer: Any, setting: Setting) -> Score:
        manager = _load(task, setting)
        with undisturbed(model), _untied(model):
            samples = _evaluate(model, tokenizer, task, manager, setting)
        metric = _metric(name, samples)
        return Score(
            per_item=tuple(float(sample[metric]) for sample in samples),
            items=items_hash([sample["doc_hash"] for sample in samples]),
        )

    return Skill(
        name=name,
        summary="a task of the lm-evaluation-harness",
        measure=measure,
        check=check,
        is_default=False,
    )


def _load(task: str, setting: Setting) -> Any:
    """The harness's index of tasks, which has this one."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError(
            f"skill '{PREFIX}{task}' needs the lm-evaluation-harness, which is not installed",
            field="skills",
            hint=INSTALL,
        )
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    folder = setting.include_path
    if folder is not None and not folder.is_dir():
        raise UsageError("no such folder", file=folder, field="include_path")
    manager = TaskManager(include_path=None if folder is None else str(folder))
    if task not in manager.all_tasks:
        raise UsageError(
            f"the lm-evaluation-harness has no task {task!r}",
            field="skills",
            hint="list them with `lm_eval ls tasks`, or name the folder of a local YAML file "
            "with --include-path",
        )
    return manager


def _evaluate(
    model: Any, tokenizer: Any, task: str, manager: Any, setting: Setting
) -> list[Mapping[str, Any]]:
    """One record per item, in the order of tasks and items."""
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    # The library gives the tokenizer a padding token of its choice.
    asked = HFLM(
        pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=setting.batch_size
    )
    seeds = dict.fromkeys(
        ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"),
        setting.seed,
    )
    results: Any = simple_evaluate(
        asked, tasks=[task], task_manager=manager, bootstrap_iters=0, **seeds
    )
    by_task = results["samples"]
    samples = [sample for name in sorted(by_task) for sample in by_task[name]]
    if setting.progress is not None:
        setting.progress(len(samples))
    return sorted(samples, key=lambda sample: sample["doc_id"]) if len(by_task) == 1 else samples


def _metric(name: str, samples: list[Mapping[str, Any]]) -> str:
    found = next((m for m in METRICS if samples and all(m in s for s in samples)), None)
    if found is None:
        raise UsageError(
            f"skill {name!r} computes none of {', '.join(METRICS)} for each item",
            field="skills",
            hint="choose another task, or add such a metric to its YAML file",
        )
    return found


@contextmanager
def _untied(model: Any) -> Iterator[None]:
    """Inside, nobody ties the model's weights.

    The library calls ``tie_weights``, which would give another model where a trained embedding is
    no longer that of the output.
    """
    model.tie_weights = lambda *_, **__: None
    try:
        yield
    finally:
        del model.tie_weights
