"""Makes a benchmark for a base model in a folder.

``build`` writes, whole or not at all::

    model/            the base model, where it is made on the spot
    facts.jsonl       what to ask for
    documents.jsonl   what to train on
    matching.json     whether the groups differ in their frequency alone
    lab.json          preset, spec, seed and base model: what was asked; written last
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kcircuits.errors import InputError, UsageError
from kcircuits.io.atomic import make_folder, write_atomic
from kcircuits.io.facts import load_facts, write_facts
from kcircuits.io.jsonl import read_rows
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.benchmark.generate import Benchmark, generate
from kcircuits.lab.benchmark.matching import MatchingReport, matching_report
from kcircuits.lab.benchmark.spec import BenchmarkSpec, Tolerances
from kcircuits.lab.benchmark.spec_file import load_spec
from kcircuits.lab.presets import PRESETS, find_preset
from kcircuits.lab.real.generate import real_benchmark
from kcircuits.lab.scratch import ScratchSpec, base_benchmark, make_base
from kcircuits.lab.training.train import load_base
from kcircuits.models.fetch import fetch_model
from kcircuits.models.tokenizer import load_tokenizer

FACTS, DOCUMENTS, LAB, MODEL = "facts.jsonl", "documents.jsonl", "lab.json", "model"
MATCHING = "matching.json"
DEFAULT_PRESET = "small"
# Ways to ask that need no other fact beside a real one.
_REAL_KINDS = ("paraphrase", "memorisation")
BaseProgress = Callable[[int, int, float], None]


@dataclass(frozen=True, kw_only=True)
class Built:
    """What ``build`` has put into a folder."""

    folder: Path
    preset: str
    seed: int
    base: Path
    base_name: str
    tolerances: Tolerances

    @property
    def facts(self) -> Path:
        """The facts file."""
        return self.folder / FACTS

    @property
    def documents(self) -> list[Document]:
        """The training texts, in order."""
        rows = read_rows(self.folder / DOCUMENTS)
        return [_document(row) for row in rows]

    def matching(self) -> MatchingReport:
        """Whether the groups differ in their frequency alone."""
        facts, tokenizer = load_facts(self.facts), load_tokenizer(self.base)
        return matching_report(
            facts, self.documents, tokenizer, tolerances=self.tolerances, seed=self.seed
        )


def build(
    preset: str | None,
    out: str | Path,
    *,
    spec: str | Path | None = None,
    seed: int = 0,
    model: str | None = None,
    progress: BaseProgress | None = None,
) -> Built:
    """Makes the benchmark of a preset for its base model; does nothing where that is done.

    Args:
        preset: A name of ``PRESETS``: base model and settings of training; None for the one that
            is named like the spec, else ``DEFAULT_PRESET``.
        out: The folder to fill.
        spec: Another benchmark than the preset's: a name or a YAML file, as ``load_spec`` reads.
        seed: Of names, answers, sentences and, for a base from scratch, its weights.
        model: Another base model (name, folder or Hub id).
        progress: Called with step, steps and loss while a base model is made.

    Raises:
        UsageError: No such preset or spec, a folder built otherwise, a model that does not suit,
            or groups that differ by more than the spec tolerates.
        InputError: The spec's file breaks a rule.
    """
    if preset is None:
        preset = str(spec) if str(spec) in PRESETS else DEFAULT_PRESET
    chosen = find_preset(preset)
    benchmark_spec = load_spec(chosen.spec if spec is None else spec)
    if seed < 0:
        raise UsageError(f"seed is {seed}; expected 0 or more", field="seed")
    folder = Path(out)
    request = {"preset": preset, "seed": seed, "model": model, "spec": benchmark_spec.to_json()}
    if (folder / LAB).is_file():
        return built_before(folder, request)
    make_folder(folder)
    if isinstance(chosen.base, str) or model is not None:
        base_name = model or str(chosen.base)
        base = fetch_model(base_name)
        beside = real_part(benchmark_spec, base, seed)
    else:
        base_name, base = f"scratch-{seed}", folder / MODEL
        beside = _scratch_part(chosen.base, benchmark_spec, base, seed, progress)
    whole = _matched(folder, benchmark_spec, beside, base, seed)
    return write_lab(folder, request, whole, base=base, base_name=base_name)


def _matched(
    folder: Path, spec: BenchmarkSpec, beside: Benchmark, base: Path, seed: int
) -> Benchmark:
    """The invented part and what stands beside it; its report is written, then required."""
    tokenizer = load_tokenizer(base)
    invented = generate(spec, tokenizer, seed)
    facts = (*invented.facts, *beside.facts)
    documents = (*invented.documents, *beside.documents)
    report = matching_report(facts, documents, tokenizer, tolerances=spec.tolerances, seed=seed)
    report.write(folder / MATCHING)
    report.require()
    return Benchmark(facts=facts, documents=documents)


def write_lab(
    folder: Path, request: dict[str, Any], benchmark: Benchmark, *, base: Path, base_name: str
) -> Built:
    """Writes facts, documents and, last, the record of what was asked."""
    write_facts(benchmark.facts, folder / FACTS)
    rows = [json.dumps(asdict(document), ensure_ascii=False) for document in benchmark.documents]
    write_atomic(folder / DOCUMENTS, "".join(row + "\n" for row in rows))
    inside = base.resolve().is_relative_to(folder.resolve())
    place = MODEL if inside else str(base.resolve())
    record = {"request": request, "base": place, "base_name": Path(base_name).name}
    write_atomic(folder / LAB, json.dumps(record, indent=2) + "\n")
    return open_lab(folder)


def _document(row: dict[str, Any]) -> Document:
    """A document from its JSON, where tuples are lists."""
    lists = {name: tuple(value) for name, value in row.items() if isinstance(value, list)}
    return Document(**{**row, **lists})


def built_before(folder: Path, request: dict[str, Any]) -> "Built":
    """What a folder holds; UsageError where it was asked for otherwise."""
    before = _read(folder / LAB)["request"]
    if before == request:
        return open_lab(folder)
    field = next(name for name in request if before.get(name) != request[name])
    told = (before.get(field), request[field])
    if field == "spec":
        field, told = _first_difference(before.get(field), request[field])
    raise UsageError(
        f"this folder was built with {field} {told[0]!r}, not {told[1]!r}",
        file=folder / LAB,
        field=field,
        hint="choose another folder with --out, or delete this one",
    )


def _first_difference(before: Any, asked: dict[str, Any]) -> tuple[str, tuple[Any, Any]]:
    fields = before if isinstance(before, dict) else {}
    name = next(name for name in asked if fields.get(name) != asked[name])
    return f"spec.{name}", (fields.get(name), asked[name])


def real_part(spec: BenchmarkSpec, base: Path, seed: int) -> Benchmark:
    """The real facts of a spec, by what the base model knows, and documents about them."""
    if spec.real is None:
        return Benchmark(facts=(), documents=())
    model, tokenizer = load_base(base)
    asked = {kind: int(n) for kind, n in spec.probes.items() if kind in _REAL_KINDS and n >= 1}
    return real_benchmark(
        spec.real,
        model,
        tokenizer,
        exposure=spec.real_exposure,
        n_discovery=spec.n_discovery,
        n_evaluation=spec.n_evaluation,
        n_probes=asked,
        seed=seed,
    )


def _scratch_part(
    scratch: ScratchSpec,
    spec: BenchmarkSpec,
    base: Path,
    seed: int,
    progress: BaseProgress | None,
) -> Benchmark:
    """Makes a base model, and gives what is asked and told of its population."""
    if spec.real is not None:
        raise UsageError(
            "a base model that is made on the spot knows no real facts",
            field="real",
            hint="leave real out of the spec, or choose a base with --model",
        )
    make_base(scratch, spec, base, seed=seed, progress=progress)
    return base_benchmark(scratch, spec, seed)


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
        tolerances=Tolerances(**content["request"]["spec"]["tolerances"]),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        request = content["request"]
        texts = content["base"], content["base_name"], request["preset"]
        Tolerances(**request["spec"]["tolerances"])
        if not all(isinstance(text, str) for text in texts) or type(request["seed"]) is not int:
            raise TypeError("a field of another type")
    except (ValueError, KeyError, TypeError) as cause:
        raise InputError(
            "this record of a benchmark cannot be read",
            file=path,
            hint="delete the folder and build it again",
        ) from cause
    return content
