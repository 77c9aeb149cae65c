"""Makes a benchmark for a base model in a folder.

``build`` writes, whole or not at all::

    model/            the base model, where it is made on the spot
    facts.jsonl       what to ask for
    documents.jsonl   what to train on
    matching.json     whether the groups differ in their frequency alone
    lab.json          preset, seed and base model: what was asked; written last
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kcircuits.core.facts import Fact
from kcircuits.errors import InputError, UsageError
from kcircuits.evaluation import known_facts
from kcircuits.io.atomic import make_folder, write_atomic
from kcircuits.io.facts import load_facts, write_facts
from kcircuits.io.jsonl import read_rows
from kcircuits.lab.benchmark import generate
from kcircuits.lab.document import Document
from kcircuits.lab.matching import MatchingReport, matching_report
from kcircuits.lab.pairs import capital_facts
from kcircuits.lab.presets import Preset, find_preset
from kcircuits.lab.probes import probe_model
from kcircuits.lab.scratch import make_base
from kcircuits.lab.train import load_base
from kcircuits.models.fetch import fetch_model
from kcircuits.models.prompts import tokenize_facts
from kcircuits.models.tokenizer import load_tokenizer

FACTS, DOCUMENTS, LAB, MODEL = "facts.jsonl", "documents.jsonl", "lab.json", "model"
MATCHING = "matching.json"
BaseProgress = Callable[[int, int, float], None]


@dataclass(frozen=True, kw_only=True)
class Built:
    """What ``build`` has put into a folder."""

    folder: Path
    preset: str
    seed: int
    base: Path
    base_name: str

    @property
    def facts(self) -> Path:
        """The facts file."""
        return self.folder / FACTS

    @property
    def documents(self) -> list[Document]:
        """The training texts, in order."""
        rows = read_rows(self.folder / DOCUMENTS)
        return [Document(**{**row, "sentences": tuple(row.get("sentences", ()))}) for row in rows]

    def matching(self) -> MatchingReport:
        """Whether the groups differ in their frequency alone."""
        facts, tokenizer = load_facts(self.facts), load_tokenizer(self.base)
        return matching_report(facts, self.documents, tokenizer, seed=self.seed)


def build(
    preset: str,
    out: str | Path,
    *,
    seed: int = 0,
    model: str | None = None,
    progress: BaseProgress | None = None,
) -> Built:
    """Makes the benchmark of a preset for its base model; does nothing where that is done.

    Args:
        preset: A name of ``PRESETS``.
        out: The folder to fill.
        seed: Of names, answers, sentences and, for a base from scratch, its weights.
        model: Another base model (name, folder or Hub id).
        progress: Called with step, steps and loss while a base model is made.

    Raises:
        UsageError: No such preset, a folder built otherwise, or a model that does not suit.
    """
    chosen = find_preset(preset)
    if seed < 0:
        raise UsageError(f"seed is {seed}; expected 0 or more", field="seed")
    folder = Path(out)
    request = {"preset": preset, "seed": seed, "model": model}
    if (folder / LAB).is_file():
        built = open_lab(folder)
        before = _read(folder / LAB)["request"]
        if before == request:
            return built
        field = next(name for name in request if before.get(name) != request[name])
        raise UsageError(
            f"this folder was built with {field} {before.get(field)!r}, not {request[field]!r}",
            file=folder / LAB,
            field=field,
            hint="choose another folder with --out, or delete this one",
        )
    make_folder(folder)
    if isinstance(chosen.base, str) or model is not None:
        base_name = model or str(chosen.base)
        base = fetch_model(base_name)
        controls = _known_capitals(chosen, base, seed)
    else:
        base_name, base = f"scratch-{seed}", folder / MODEL
        controls = make_base(chosen.base, chosen.benchmark, base, seed=seed, progress=progress)
    tokenizer = load_tokenizer(base)
    benchmark = generate(chosen.benchmark, tokenizer, seed)
    facts = (*benchmark.facts, *controls)
    report = matching_report(facts, benchmark.documents, tokenizer, seed=seed)
    report.write(folder / MATCHING)
    report.require()
    write_facts(facts, folder / FACTS)
    rows = [json.dumps(asdict(document), ensure_ascii=False) for document in benchmark.documents]
    write_atomic(folder / DOCUMENTS, "".join(row + "\n" for row in rows))
    inside = base.resolve().is_relative_to(folder.resolve())
    place = MODEL if inside else str(base.resolve())
    content = {"request": request, "base": place, "base_name": Path(base_name).name}
    write_atomic(folder / LAB, json.dumps(content, indent=2) + "\n")
    return open_lab(folder)


def open_lab(folder: str | Path) -> Built:
    """What a folder holds.

    Raises:
        UsageError: Nothing was built there.
        InputError: Its record cannot be read.
    """
    folder = Path(folder)
    if not (folder / LAB).is_file():
        raise UsageError(
            f"no benchmark in this folder (no {LAB})",
            file=folder,
            field="out",
            hint=f"build one first: kcircuits lab build --out {folder}",
        )
    content = _read(folder / LAB)
    return Built(
        folder=folder,
        preset=content["request"]["preset"],
        seed=content["request"]["seed"],
        base=folder / content["base"],
        base_name=content["base_name"],
    )


def _known_capitals(preset: Preset, base: Path, seed: int) -> tuple[Fact, ...]:
    """Controls that the base model knows, drawn from all that it knows."""
    model, tokenizer = load_base(base)
    facts = capital_facts(preset.benchmark, tokenizer)
    known = known_facts(probe_model(model, tokenize_facts(tokenizer, facts)))
    subjects = [fact.subject for fact in facts if known[fact.id]]
    if len(subjects) < preset.n_controls:
        raise UsageError(
            f"the base model knows {len(subjects)} of {len(facts)} capitals; {preset.n_controls} "
            "are wanted as controls",
            field="model",
            hint="choose a larger model",
        )
    drawn = np.random.default_rng([seed, len(facts)]).permutation(subjects)[: preset.n_controls]
    return capital_facts(preset.benchmark, tokenizer, drawn.tolist())


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        request = content["request"]
        texts = content["base"], content["base_name"], request["preset"]
        if not all(isinstance(text, str) for text in texts) or type(request["seed"]) is not int:
            raise TypeError("a field of another type")
    except (ValueError, KeyError, TypeError) as cause:
        raise InputError(
            "this record of a benchmark cannot be read",
            file=path,
            hint="delete the folder and build it again",
        ) from cause
    return content
