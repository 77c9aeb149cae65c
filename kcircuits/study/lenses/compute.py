"""Looks at every epoch of a run through its lenses: computes what is missing, keeps it, goes on.

Where nothing is missing no torch is imported.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.core.keys import token_digests
from kcircuits.core.lenses import RELATIONS, Relation
from kcircuits.errors import CheckpointError, FileAccessError, KCircuitsError, UsageError
from kcircuits.io.atomic import clear_leftovers
from kcircuits.io.lens_files import FOLDER, LensFact, open_lens_file, write_lens_file
from kcircuits.io.lock import writer_lock
from kcircuits.study.lenses.lenses import due_facts, lens_settings, require_facts, resolve_refs
from kcircuits.study.run import Run

if TYPE_CHECKING:
    from kcircuits.models import Model

# Prompts done, prompts in all, and the epoch.
Progress = Callable[[int, int, str], object]


def compute_lenses(
    run: Run,
    refs: Sequence[str] | None = None,
    *,
    fact_ids: Sequence[str] | None = None,
    relation: Relation = "text",
    manifest: str | Path | None = None,
    device: str = "cpu",
    memory: str | int = "1GiB",
    progress: Progress | None = None,
) -> dict[str, KCircuitsError]:
    """Computes what the run's ``lenses`` folder lacks, epoch by epoch, each kept at once.

    Args:
        run: The run.
        refs: References to epochs; default all.
        fact_ids: Which facts; default all. Others that are kept already stay.
        relation: See ``core.lenses.position_groups``.
        manifest: Says where checkpoints lie; default the manifest that the run was made from.
        device: Where to compute.
        memory: Peak memory above the loaded model to stay within.
        progress: Told of finished prompts.

    Returns:
        Why epochs are missing, by their id.

    Raises:
        UsageError: An epoch, fact or option that cannot be meant.
        StoreBusyError: Another process writes lenses of this run.
        StoreCorruptError: What was kept is not what was written.
        FileAccessError: The disk refused; what is kept stays.
    """
    if relation not in RELATIONS:
        raise UsageError(
            f"relation is {relation!r}; expected {' or '.join(RELATIONS)}", field="relation"
        )
    wanted, settings = require_facts(run, fact_ids), lens_settings(run, relation, device)
    epochs = resolve_refs(run, refs)
    if not any(due_facts(run, epoch, wanted, settings) for epoch in epochs):
        return {}
    from kcircuits.engine.chunks import parse_memory
    from kcircuits.study.scored_checkpoint import load_scored

    n_bytes = parse_memory(memory)
    failures: dict[str, KCircuitsError] = {}
    model: Model | None = None
    with writer_lock(run.path / FOLDER / "lock"):
        clear_leftovers(run.path / FOLDER)
        due = {epoch: due_facts(run, epoch, wanted, settings) for epoch in epochs}
        tell = _Tell(run, due, progress)
        for epoch in filter(due.__getitem__, epochs):
            try:
                model = load_scored(run, epoch, manifest=manifest, device=device, previous=model)
                _look(run, epoch, model, due[epoch], settings, n_bytes, tell)
            except (CheckpointError, FileAccessError) as error:
                failures[epoch], model = error, None
    return failures


class _Tell:
    """Adds up finished prompts over epochs."""

    def __init__(
        self, run: Run, due: Mapping[str, Sequence[str]], progress: Progress | None
    ) -> None:
        prompts = {fact.id: len(fact.prompt_indices("discovery")) for fact in run.facts}
        self.n_all = sum(prompts[fact_id] for ids in due.values() for fact_id in ids)
        self.n_done, self.progress = 0, progress

    def __call__(self, epoch: str, n_more: int) -> None:
        self.n_done += n_more
        if self.progress is not None:
            self.progress(self.n_done, self.n_all, epoch)


def _look(
    run: Run,
    epoch: str,
    model: "Model",
    due: Sequence[str],
    settings: dict[str, Any],
    memory: int,
    tell: _Tell,
) -> None:
    """Computes the lenses of some facts and writes them beside those that hold."""
    from kcircuits.evaluation.lenses import lenses
    from kcircuits.models import tokenize

    records = {record.id: record for record in run.request.facts}
    batch = tokenize(model, [records[fact_id].fact for fact_id in due])
    tokens = token_digests(batch)
    other = next((i for i in due if records[i].tokens not in (None, tokens[i])), None)
    if other is not None:
        raise CheckpointError(
            f"checkpoint {epoch} has other token ids for fact {other!r} than the run's circuits",
            hint="use the tokenizer that the run was computed with",
        )
    found = lenses(
        model,
        batch,
        relation=settings["relation"],
        memory=memory,
        progress=partial(tell, epoch),
    )
    new = {i: LensFact(id=i, hash=records[i].hash, tokens=tokens[i]) for i in due}
    before = open_lens_file(run.path, model.content_hash)
    kept = () if before is None or before.settings != settings else before.facts
    # Of what was there, all that no fact of this call replaces: facts of an older run may return.
    facts = [*(fact for fact in kept if fact.id not in new), *new.values()]
    parts = [
        found.facts([fact.id]) if fact.id in new or before is None else before.read(fact.id)
        for fact in facts
    ]
    write_lens_file(run.path, facts, parts, settings)
