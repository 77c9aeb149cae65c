"""Probing without training: a model, or a checkpoint, asked at one moment.

Its rows are those of ``probes.jsonl``. The strategies that do not train (``rag-gold``,
``rag-entity``, ``rag-retrieved``) are a run of one such moment, at epoch 0, whose checkpoint is the
untrained model itself, where it lies.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kcircuits.core.facts import Fact
from kcircuits.core.manifest import Checkpoint, Manifest
from kcircuits.io.atomic import make_folder, write_atomic
from kcircuits.io.checkpoint_files import adapter_files, content_hash, model_files
from kcircuits.io.facts import load_facts
from kcircuits.io.lock import writer_lock
from kcircuits.io.manifest import SCHEMA_VERSION, load_manifest, write_manifest
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.probing.carried_documents import facts_with_documents, questions_with_documents
from kcircuits.lab.probing.generation import Progress
from kcircuits.lab.probing.open_questions import ask_open_questions, questions_about
from kcircuits.lab.probing.probes import probe_model, require_room
from kcircuits.lab.skills import measure_skills
from kcircuits.lab.strategies import STRATEGIES
from kcircuits.lab.strategies.strategy import Find
from kcircuits.lab.training.run_folder import RunFolder, asked_before, recorded
from kcircuits.models.adapters import check_base, with_adapter
from kcircuits.models.prompts import tokenize_facts
from kcircuits.models.quiet import quiet
from kcircuits.models.reference import load_config, load_reference
from kcircuits.models.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)
Row = dict[str, Any]


def probe_facts(
    model: Any,
    tokenizer: Any,
    facts: Sequence[Fact],
    *,
    questions: int = 0,
    find: Find | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Asks a model all probes of some facts.

    Args:
        model: A transformers model, with or without an adapter; left as it was.
        tokenizer: Its tokenizer.
        facts: What to ask.
        questions: Open questions for each fact, at most; 0 asks none.
        find: Finds the documents that a prompt shall carry; None for prompts as they are.
        progress: Called with the number of prompts and questions asked since the last call.

    Returns:
        Rows of ``probes.jsonl``, but for what names the checkpoint and the run: cloze probes, then
        open questions. With ``find`` also ``documents`` (number in the prompt) and ``dropped``
        (for which there was no room).

    Raises:
        FactsError: A prompt does not fit the tokenizer or the model.
    """
    n_ctx = getattr(model.config, "max_position_embeddings", None)
    asked, carried = list(facts), {}
    if find is not None:
        asked, carried = facts_with_documents(facts, find, tokenizer, n_ctx)
    batch = tokenize_facts(tokenizer, asked)
    require_room(model, batch)
    cloze = probe_model(model, batch, progress=progress)
    rows: list[Row] = [row | {"recall": None, "f1": None} for row in cloze]
    rows = [row | _about(carried, row) for row in rows] if find else rows
    if questions:
        asking, carried = questions_about(facts, questions), {}
        if find is not None:
            asking, carried = questions_with_documents(asking, facts, find, tokenizer, n_ctx)
        opened = ask_open_questions(model, tokenizer, asking, progress=progress)
        rows += [row | _about(carried, row) for row in opened] if find else opened
    return rows


def load_checkpoint(source: Checkpoint) -> tuple[Any, Any]:
    """The transformers model (float32) and the tokenizer of a checkpoint, its adapter not merged.

    Raises:
        CheckpointError: It is not, or not surely, what the manifest says.
    """
    files = model_files(source.path)
    with quiet():
        model = load_reference(files, load_config(files), torch.float32)
        if source.adapter is not None:
            adapter = adapter_files(source.adapter)
            check_base(files, adapter)
            model = with_adapter(model, adapter, source)
    return model, load_tokenizer(source.path)


def record_without_training(
    base: Path,
    documents: Sequence[Document],
    facts: Path,
    out: Path,
    *,
    strategy: str,
    run: str,
    base_name: str,
    seed: int = 0,
    questions: int = 0,
    skills: Sequence[str] = (),
) -> Manifest:
    """The run of a strategy that does not train: the probes of epoch 0, with documents.

    Does nothing where the folder holds this run already.

    Args:
        base: Folder of the untrained model, which stays where it is.
        documents: All documents.
        facts: A facts file.
        out: The run's folder.
        strategy: Its name.
        run: Name of the run.
        base_name: The model's name in the manifest.
        seed: In the rows; nothing is drawn.
        questions: Open questions for each fact, at most.
        skills: Names for ``measure_skills``: what is measured beside, without documents.

    Raises:
        UsageError: The folder holds another run.
        FactsError: A prompt does not fit the tokenizer or the model.
    """
    folder = RunFolder(root=Path(out).absolute(), run=run)
    make_folder(folder.root)
    untrained = Checkpoint(id="ep0", path=base, epoch=0, step=0, sha256=content_hash(base))
    asked = load_facts(facts)
    request = {
        "recorder": "without training",
        "run": run,
        "strategy": strategy,
        "base": untrained.sha256,
        "documents": _hash_of_texts(documents),
        "questions": questions,
        "skills": list(skills),
        "facts": content_hash_of(asked),
        "seed": seed,
    }
    with writer_lock(folder.root / ".recording.lock"):
        asked_before(folder, request)
        if recorded(folder):
            return load_manifest(folder.manifest)
        write_atomic(folder.request, json.dumps({"request": request}, indent=2) + "\n")
        find = _finder(strategy, documents)
        model, tokenizer = load_checkpoint(untrained)
        rows = probe_facts(model, tokenizer, asked, questions=questions, find=find)
        moment = {"checkpoint": untrained.id, "epoch": untrained.epoch}
        _write(folder.probes, moment | {"strategy": strategy, "seed": seed}, rows)
        if skills:
            _write(folder.skills, moment, measure_skills(model, tokenizer, skills))
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            run=run,
            base_model=base_name,
            facts=facts,
            checkpoints=(untrained,),
        )
        write_manifest(manifest, folder.manifest)
    return load_manifest(folder.manifest)


def content_hash_of(facts: Sequence[Fact]) -> str:
    """A hash of facts in their order."""
    return hashlib.sha256("".join(fact.content_hash for fact in facts).encode()).hexdigest()


def _hash_of_texts(documents: Sequence[Document]) -> str:
    texts = json.dumps([document.text for document in documents])
    return hashlib.sha256(texts.encode()).hexdigest()


def _finder(strategy: str, documents: Sequence[Document]) -> Find | None:
    """What finds a prompt's documents by a strategy; None where prompts carry none."""
    choose = STRATEGIES[strategy].documents
    return None if choose is None else choose(documents)


def _write(path: Path, head: Row, rows: Sequence[Row]) -> None:
    """Rows that all begin with the same fields."""
    make_folder(path.parent)
    lines = (json.dumps(head | row, ensure_ascii=False) + "\n" for row in rows)
    write_atomic(path, "".join(lines))


def _about(carried: Any, row: Row) -> Row:
    found = carried.get((row["fact"], row["prompt_idx"]))
    if found is None:
        return {"documents": 0, "dropped": 0}
    return {"documents": len(found.texts), "dropped": found.n_dropped}
