"""Makes a benchmark of documents and facts that somebody brings along.

The folder is that of a generated benchmark (``kcircuits.lab.build``), so everything that trains
and measures goes on from there; ``left-out.txt`` stands beside it where prompts were left out.
Groups are matched as far as the data are: the report tells how far that is.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kcircuits.core.facts import Fact
from kcircuits.errors import FactsError, UsageError
from kcircuits.io.atomic import make_folder, write_atomic
from kcircuits.io.facts import load_facts
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.benchmark.generate import Benchmark
from kcircuits.lab.benchmark.matching import MatchingReport, matching_report
from kcircuits.lab.benchmark.spec import HELD_OUT, Tolerances
from kcircuits.lab.build import (
    DEFAULT_PRESET,
    LAB,
    MATCHING,
    Built,
    built_before,
    write_lab,
)
from kcircuits.lab.own.documents import read_documents
from kcircuits.lab.own.pairing import Paired, pair_questions
from kcircuits.lab.own.questions import read_questions
from kcircuits.lab.own.table import Row, read_table
from kcircuits.lab.presets import Preset, find_preset
from kcircuits.models.fetch import fetch_model
from kcircuits.models.prompts import encode_prompts
from kcircuits.models.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)

LEFT_OUT = "left-out.txt"
"""What has no corrupt prompt, one line each."""


def build_own(
    documents: str | Path,
    facts: str | Path,
    model: str | None,
    out: str | Path,
    *,
    preset: str | None = None,
    seed: int = 0,
    is_strict: bool = False,
    skips_unpaired: bool = False,
) -> Built:
    """Makes a benchmark of files; does nothing where that is done.

    Args:
        documents: JSONL or CSV, as ``read_documents`` reads it.
        facts: The facts format of this project (rows with clean and corrupt prompts), or JSONL or
            CSV as ``read_questions`` reads it.
        model: The base model (name, folder or Hub id); None for the preset's.
        out: The folder to fill.
        preset: A name of ``PRESETS``: settings of training; default ``DEFAULT_PRESET``.
        seed: Of the candidates and of the report's floors; 0 or more.
        is_strict: Refuses groups that differ in more than their frequency, instead of a warning.
        skips_unpaired: Leaves out prompts without a partner, instead of an error.

    Raises:
        UsageError: No such preset, a folder built otherwise, or, if strict, unmatched groups.
        InputError: The first line that breaks a rule or, as FactsError, cannot be paired.
    """
    chosen = find_preset(preset or DEFAULT_PRESET)
    _require_settings(chosen, model, seed)
    told = read_documents(documents)
    asked = _read_facts(Path(facts))
    tolerances = Tolerances()
    request: dict[str, Any] = {
        "preset": chosen.name,
        "seed": seed,
        "model": model,
        "documents": sha256(Path(documents).read_bytes()).hexdigest(),
        "facts": sha256(Path(facts).read_bytes()).hexdigest(),
        "skip_unpaired": skips_unpaired,
        "spec": {"tolerances": asdict(tolerances)},
    }
    folder = Path(out)
    if (folder / LAB).is_file():
        return built_before(folder, request)
    base_name = model or str(chosen.base)
    base = fetch_model(base_name)
    tokenizer = load_tokenizer(base)
    paired = _paired(asked, tokenizer, seed, Path(facts), skips_unpaired)
    whole = Benchmark(facts=_with_strata(paired.facts, told), documents=told)
    report = matching_report(whole.facts, told, tokenizer, tolerances=tolerances, seed=seed)
    make_folder(folder)
    report.write(folder / MATCHING)
    _require_matched(report, is_strict)
    _list_left_out(paired.left_out, folder / LEFT_OUT)
    return write_lab(folder, request, whole, base=base, base_name=base_name)


def left_out(folder: str | Path) -> list[str]:
    """What a folder's facts lack because it had no partner, one line each."""
    file = Path(folder) / LEFT_OUT
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def _require_settings(preset: Preset, model: str | None, seed: int) -> None:
    """UsageError for a negative seed, or a preset whose base model knows no facts of others."""
    if seed < 0:
        raise UsageError(f"seed is {seed}; expected 0 or more", field="seed")
    if model is None and not isinstance(preset.base, str):
        raise UsageError(
            f"the base model of preset {preset.name!r} is made for invented people",
            field="model",
            hint="choose a base with --model, or another preset",
        )


def _read_facts(path: Path) -> tuple[Fact, ...] | list[Row]:
    """Whole facts where the first row has prompts with a corrupt text, else rows."""
    rows = read_table(path)
    prompts = rows[0].fields.get("prompts")
    is_whole = isinstance(prompts, list) and any(isinstance(each, dict) for each in prompts)
    return load_facts(path) if is_whole else rows


def _paired(
    asked: tuple[Fact, ...] | list[Row],
    tokenizer: Any,
    seed: int,
    path: Path,
    skips_unpaired: bool,
) -> Paired:
    """Facts with corrupt prompts; FactsError where there are none, or prompts lack theirs."""
    if isinstance(asked, tuple):
        _, problems = encode_prompts(tokenizer, asked, max_problems=1)
        if problems:
            first = problems[0]
            raise FactsError(first.message, file=path, field=first.field, hint=first.hint)
        return Paired(facts=asked, left_out=())
    paired = pair_questions(read_questions(asked), tokenizer, seed)
    if paired.left_out and not skips_unpaired:
        first = paired.left_out[0]
        more = len(paired.left_out) - 1
        raise FactsError(
            first.message + (f" (and {more} more prompts without one)" if more else ""),
            file=first.file,
            line=first.line,
            field=first.field,
            hint=first.hint,
        )
    if not paired.facts:
        raise FactsError(
            f"none of {len(paired.left_out)} prompts has a partner",
            file=path,
            hint="give each relation at least two subjects of equal token count",
        )
    return paired


def _require_matched(report: MatchingReport, is_strict: bool) -> None:
    """Groups that differ in more than their frequency are refused, or warned of."""
    try:
        report.require()
    except UsageError as difference:
        if is_strict:
            raise
        logger.warning("%s", difference.message)


def _list_left_out(problems: Sequence[FactsError], file: Path) -> None:
    """Writes a line for each, and no file where there is none."""
    if problems:
        lines = (f"{problem.file}:{problem.line}: {problem.message}\n" for problem in problems)
        write_atomic(file, "".join(lines))


def _with_strata(facts: Sequence[Fact], documents: Sequence[Document]) -> tuple[Fact, ...]:
    """The facts with the strata that the documents decide, where they have none of their own."""
    counts = Counter(document.subject for document in documents)
    frequencies = {document.subject: document.frequency for document in documents}
    return tuple(
        replace(
            fact,
            strata=MappingProxyType(
                {
                    "type": "own",
                    "split": "trained" if counts[fact.subject] else "held-out",
                    "frequency": frequencies.get(fact.subject, HELD_OUT),
                    "exposure": str(counts[fact.subject]),
                    **fact.strata,
                }
            ),
        )
        for fact in facts
    )
