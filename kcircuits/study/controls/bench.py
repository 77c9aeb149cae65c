"""What controls work on: a checkpoint of a run, some facts that it knows, and the way to a diff.

The way is the sweep's own: the same method, parameters and budget, cells made and compared as
those of any two epochs, whatever weights they come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from kcircuits.core.batch import PromptBatch
from kcircuits.core.cell import Cell, FailedCell
from kcircuits.core.manifest import Checkpoint
from kcircuits.discovery import get_method
from kcircuits.engine.chunks import DEFAULT_MEMORY
from kcircuits.errors import IncomparableError, NonFiniteError, UsageError
from kcircuits.io.run_record import FactRecord
from kcircuits.models import Model, tokenize
from kcircuits.study.diff.diff import Diff
from kcircuits.study.run import Run
from kcircuits.study.scored_checkpoint import find_checkpoint, load_scored
from kcircuits.sweep.cells import cells_of_batch
from kcircuits.sweep.compute import Advance, Loaded
from kcircuits.sweep.model_compute import ModelCompute
from kcircuits.sweep.request import Settings

# The ten entities that an interval needs; 80 prompts of SmolLM2-135M are scored in half a minute.
N_FACTS = 10


def ignore(_: int, note: str = "", /) -> None:
    """No progress to tell."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A checkpoint of a run, and some facts known there.

    Attributes:
        run: The run.
        epoch: Id of the checkpoint.
        checkpoint: Where it lies, by
        manifest: a manifest; None for the one that the run was made from.
        facts: The facts that controls score.
        settings: The run's, but for the device.
        memory: As in ``kcircuits.attribute``.
        seed: Of what controls draw.
        advance: Told of the prompts that are scored.
    """

    run: Run
    epoch: str
    checkpoint: Checkpoint
    facts: tuple[FactRecord, ...]
    settings: Settings
    manifest: str | Path | None = None
    memory: str | int = DEFAULT_MEMORY
    seed: int = 0
    advance: Advance = ignore

    @property
    def n_prompts(self) -> int:
        """Discovery prompts of all facts: those of one scoring."""
        return sum(record.n_prompts for record in self.facts)

    @cached_property
    def model(self) -> Model:
        """The checkpoint in memory."""
        return self.load()

    @cached_property
    def prompts(self) -> PromptBatch:
        """All prompts of the facts."""
        return tokenize(self.model, [record.fact for record in self.facts])

    @cached_property
    def clean(self) -> list[Cell]:
        """The cells of the checkpoint as it is, scored now."""
        return self.cells(self.model)

    def load(self) -> Model:
        """The checkpoint, read from disk anew."""
        return load_scored(
            self.run, self.epoch, manifest=self.manifest, device=self.settings.device
        )

    def cells(self, model: Model) -> list[Cell]:
        """The facts' cells under a model of the same tokens, counted as known.

        Which facts a changed model still knows is another question than how its circuits differ.
        """
        cells = score_cells(
            model,
            self.prompts,
            self.facts,
            self.settings,
            self.run.n_edges,
            memory=self.memory,
            advance=self.advance,
        )
        return [replace(cell, is_known=True) for cell in cells]

    def stored(self, *, only_known: bool = False) -> list[Cell]:
        """The run's own cells of this epoch, of all its facts, counted as known."""
        rows = self.run.rows(self.epoch)
        cells = self.run.cells(
            self.epoch,
            [
                fact_id
                for fact_id, row in rows.items()
                if not row.is_failed and (row.is_known or not only_known)
            ],
        )
        return [replace(cell, is_known=True) for cell in cells]

    def diff(self, before: Sequence[Cell], after: Sequence[Cell]) -> Diff:
        """Two sets of cells as two epochs."""
        return Diff.from_cells(
            [replace(cell, checkpoint="before") for cell in before],
            [replace(cell, checkpoint="after") for cell in after],
            epochs=("before", "after"),
            facts=self.run.facts,
        )


def open_bench(
    run: Run,
    epoch: str = "last",
    *,
    fact_ids: Sequence[str] | None = None,
    manifest: str | Path | None = None,
    device: str = "cpu",
    memory: str | int = DEFAULT_MEMORY,
    seed: int = 0,
    advance: Advance = ignore,
) -> Bench:
    """A bench at an epoch of a run.

    Args:
        run: The run.
        epoch: A reference to the checkpoint.
        fact_ids: Which facts; those that are not known there are left out. Default some that are
            known, about as many subjects as can be.
        manifest: Says where the checkpoint lies; default the manifest that the run was made from.
        device: Where to compute.
        memory: Peak memory above the loaded model to stay within.
        seed: Of what controls draw.
        advance: Told of the prompts that are scored.

    Raises:
        UsageError: An epoch or fact that cannot be meant, or circuits of a method that is trained.
        IncomparableError: No fact is known at the epoch.
    """
    if get_method(run.method).train is not None:
        raise UsageError(
            f"{run.method} trains its circuits: controls are for methods that score edges",
            field="method",
            hint="name another of the run's methods with --method",
        )
    name = run.checkpoint(epoch).id
    settings = run.request.settings
    return Bench(
        run=run,
        epoch=name,
        checkpoint=find_checkpoint(run, name, manifest),
        manifest=manifest,
        facts=_choose_facts(run, name, fact_ids),
        settings=Settings(
            **{key: settings[key] for key in ("method", "params", "fraction", "n_edges", "dtype")},
            device=device,
        ),
        memory=memory,
        seed=seed,
        advance=advance,
    )


def score_cells(
    model: Model,
    prompts: PromptBatch,
    facts: Sequence[FactRecord],
    settings: Settings,
    n_edges: int,
    *,
    memory: str | int = DEFAULT_MEMORY,
    advance: Advance = ignore,
) -> list[Cell]:
    """Cells as a sweep makes them, of any model that has weights.

    Raises:
        NonFiniteError: A number is not finite; names the fact and the component.
    """
    loaded = Loaded(model=model, topology=model.topology, content_hash=model.content_hash)
    result = ModelCompute(settings, memory=memory).attribute(loaded, prompts, n_edges, advance)
    cells = cells_of_batch(
        result,
        facts,
        [record.id for record in facts],
        checkpoint=model.content_hash,
        n_edges=n_edges,
    )
    for cell in cells:
        if isinstance(cell, FailedCell):
            raise NonFiniteError(
                f"fact {cell.fact_id!r} under {model.source.id}: {cell.component}: {cell.message}",
                field=cell.fact_id,
            )
    return [cell for cell in cells if isinstance(cell, Cell)]


def _choose_facts(run: Run, epoch: str, fact_ids: Sequence[str] | None) -> tuple[FactRecord, ...]:
    rows = run.rows(epoch)
    known = [
        record
        for record in run.request.facts
        if record.id in rows
        and rows[record.id].is_known
        and (fact_ids is None or record.id in fact_ids)
    ]
    if not known:
        raise IncomparableError(
            f"no fact{'' if fact_ids is None else ' of those chosen'} is known at {epoch}, and the "
            "circuit of a fact that the model does not know is not the circuit of that fact",
            field="epoch",
            hint="choose an epoch that `kcircuits ls epochs` shows facts known at, with --epoch",
        )
    if fact_ids is not None:
        return tuple(known)
    seen: dict[str, int] = {}
    turns = []
    for record in known:  # the first fact of each subject comes before the second of any
        turns.append(seen.setdefault(record.fact.subject, 0))
        seen[record.fact.subject] += 1
    chosen = np.sort(np.argsort(turns, kind="stable")[:N_FACTS])
    return tuple(known[place] for place in chosen)
