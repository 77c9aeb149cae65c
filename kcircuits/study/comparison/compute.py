"""Compares methods, and keeps what was found in a folder.

A folder holds one JSON file per method, written when the method is done, so that a comparison
which was stopped goes on, and one method can be compared anew; table (JSON and Markdown) and page
come from these files alone.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kcircuits import __version__
from kcircuits.core.batch import PromptBatch
from kcircuits.core.facts import Fact
from kcircuits.errors import UsageError
from kcircuits.io.atomic import make_folder, write_atomic
from kcircuits.lab.comparison import TRAINED_SIZES, Compared, Progress, compare_method
from kcircuits.study.comparison.comparison import Comparison

PAGE, TABLE, TEXT = "comparison.html", "comparison.json", "comparison.md"
_SCHEMA = "kcircuits.compared-method/1"


def run_comparison(
    model: Any,
    batch: PromptBatch,
    facts: Sequence[Fact],
    methods: Mapping[str, Mapping[str, Any]],
    folder: Path,
    *,
    trained_sizes: Sequence[float] = TRAINED_SIZES,
    memory: str | int = "1GiB",
    progress: Callable[[str], Progress] | None = None,
) -> Comparison:
    """Compares methods and writes table and page; methods that the folder has are not run again.

    Args:
        model: From ``load_model``.
        batch: Prompts of the facts.
        facts: Facts that the model knows.
        methods: Parameters of each method.
        folder: Where to write.
        trained_sizes: Sizes of methods that are trained for a size.
        memory: As in ``attribute``.
        progress: From the name of a method to whom to tell what is done.

    Raises:
        UsageError: A method or parameter that cannot be meant, or a folder with a comparison of
            another model or other facts.
    """
    make_folder(folder)
    about = {
        "model": model.source.path.name,
        "checkpoint": model.content_hash,
        "facts": len(facts),
        "prompts": f"{len(batch.with_use('discovery'))} to find, "
        f"{len(batch.with_use('evaluation'))} to judge",
        "edges": model.topology.n_edges,
    }
    subjects = [fact.subject for fact in facts]
    found = []
    for name, params in methods.items():
        file = folder / f"{name}.json"
        identity = {
            "schema": _SCHEMA,
            **about,
            "fact_ids": [fact.id for fact in facts],
            "given": dict(params),
        }
        each = _stored(file, identity)
        if each is None:
            told = progress(name) if progress else None
            each = compare_method(
                model,
                batch,
                name,
                params=params,
                trained_sizes=trained_sizes,
                memory=memory,
                progress=told,
            )
            content = {**identity, "version": __version__, **each.to_json()}
            write_atomic(file, json.dumps(content) + "\n")
        found.append(each)
    comparison = Comparison(about, found, subjects)
    write_atomic(folder / TABLE, json.dumps(comparison.to_json(), indent=1) + "\n")
    write_atomic(folder / TEXT, comparison.markdown())
    write_atomic(folder / PAGE, comparison.page())
    return comparison


def _stored(file: Path, identity: Mapping[str, Any]) -> Compared | None:
    """What the folder has of a method; UsageError where it is about something else."""
    if not file.exists():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    for name, value in identity.items():
        if content.get(name) != value:
            raise UsageError(
                f"{file} has another {name}",
                field=name,
                hint="give another folder, or delete the file to compare the method anew",
            )
    return Compared.from_json(content)
