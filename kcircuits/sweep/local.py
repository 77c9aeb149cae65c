"""The executor in one process: checkpoint by checkpoint, batch by batch, each committed at once.

A checkpoint is hashed before its cells and again before each commit; if it changed, nothing of the
batch is kept. A checkpoint that does not load leaves the others alone. Whatever ends the process,
committed batches stay, and the next run goes on with those that are missing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from kcircuits.core.batch import PromptBatch
from kcircuits.core.budget import edge_budget
from kcircuits.core.cell import Cell, FailedCell
from kcircuits.core.keys import token_digests
from kcircuits.core.manifest import Checkpoint
from kcircuits.errors import CheckpointError, FileAccessError, KCircuitsError
from kcircuits.io.atomic import clear_leftovers
from kcircuits.io.checkpoint_files import content_hash
from kcircuits.io.run_record import RUN_FILE, FactRecord, read_run_record, write_run_record
from kcircuits.io.store import Store
from kcircuits.sweep.cells import AGREEMENT, cells_of_batch, disagreement
from kcircuits.sweep.compute import Compute, Loaded
from kcircuits.sweep.plan import Batch, batches_at, new_record, plan_request, with_tokens
from kcircuits.sweep.request import Request


@dataclass(kw_only=True)
class SweepResult:
    """What a sweep did.

    Attributes:
        n_cells: Cells that were asked for.
        n_done: Of them, those in the store now.
        n_computed: Of them, those that this call computed.
        n_failed: Of those in the store, cells without numbers.
        failures: Why checkpoints are missing, by their id.
        disagreements: Cells that another batch had computed with other numbers.
    """

    n_cells: int
    n_done: int = 0
    n_computed: int = 0
    n_failed: int = 0
    failures: dict[str, KCircuitsError] = field(default_factory=dict)
    disagreements: list[str] = field(default_factory=list)


def checkpoint_hash(checkpoint: Checkpoint) -> str:
    """Content hash of a checkpoint as it is on disk now; CheckpointError if it is not whole."""
    return content_hash(checkpoint.path, checkpoint.adapter)


def run_local(
    request: Request,
    folder: Path,
    compute: Compute,
    *,
    hash_of: Callable[[Checkpoint], str] = checkpoint_hash,
    is_main: bool = True,
    wait_s: float = 0.0,
    show_progress: bool = False,
    on_failure: Callable[[str, KCircuitsError], object] = lambda *_: None,
) -> SweepResult:
    """Computes what the run folder lacks of a request.

    Args:
        request: Which facts at which checkpoints, by which method.
        folder: The run folder; made if absent.
        compute: Models and numbers; used only where something is due.
        hash_of: Hash of a checkpoint as it is on disk now; CheckpointError if not whole.
        is_main: These are the results that the run opens with from now on; else they lie beside
            those that it opens with.
        wait_s: How long to wait for another writer, in seconds.
        show_progress: A bar on stderr with rate and time left.
        on_failure: Called with the id of each checkpoint that could not be computed, and why.

    Raises:
        StoreBusyError: Another process writes the same store.
        FileAccessError: The disk refused; what is committed stays.
        FactsError: A fact does not fit the tokenizer.
    """
    store = Store(folder / "store")
    with store.writing(wait_s=wait_s):
        clear_leftovers(folder, RUN_FILE)
        sweep = _Sweep(request, folder, store, compute, hash_of, is_main, on_failure)
        sweep.run(show_progress)
        return sweep.result


class _Sweep:
    """The state of one ``run_local``."""

    def __init__(
        self,
        request: Request,
        folder: Path,
        store: Store,
        compute: Compute,
        hash_of: Callable[[Checkpoint], str],
        is_main: bool,
        on_failure: Callable[[str, KCircuitsError], object],
    ) -> None:
        self.request, self.folder, self.store = request, folder, store
        self.compute, self.hash_of = compute, hash_of
        self.is_main, self.on_failure = is_main, on_failure
        self.loaded: Loaded | None = None
        self.result = SweepResult(n_cells=len(request.facts) * len(request.checkpoints))
        self.run_record = (
            read_run_record(folder)
            if (folder / RUN_FILE).exists()
            else new_record(request.manifest, folder)
        )
        before = self.run_record.request(request.settings.id)
        self.record = plan_request(request, before, self._hashes())

    def run(self, show_progress: bool) -> None:
        n_prompts = sum(len(f.prompt_indices("discovery")) for f in self.request.facts)
        bar = tqdm(
            total=n_prompts * len(self.request.checkpoints),
            unit="prompt",
            disable=not show_progress,
            dynamic_ncols=True,
        )
        with bar:
            for checkpoint in self.request.checkpoints:
                bar.set_description(checkpoint.id, refresh=False)
                if checkpoint.id not in self.result.failures:
                    self._run_checkpoint(checkpoint, bar)
        if self.record.topology is not None:
            self._write_record()
        self._count()

    def _run_checkpoint(self, checkpoint: Checkpoint, bar: tqdm) -> None:
        batches = batches_at(self.record, checkpoint.id)
        prompts: PromptBatch | None = None
        if batches is None or any(batch.is_due(self.store) for batch in batches):
            prompts = self._load(checkpoint)
            if prompts is None:
                return
            batches = batches_at(self.record, checkpoint.id)
            assert batches is not None, "loading a checkpoint tells the token ids"
        for batch in batches:
            n_prompts = sum(f.n_prompts for f in self._facts(batch))
            if prompts is None or not batch.is_due(self.store):
                bar.total -= n_prompts  # time left is that of the work left
                continue
            start = bar.n
            cells = self._compute(checkpoint, batch, prompts, bar)
            if cells is None:
                return
            self._compare(cells)
            width = int(prompts.facts(batch.fact_ids).lengths.max())
            plan = {"batch_size": self.record.batch_size, "padded_to": width}
            self.store.commit(batch.id, cells, plan=plan)
            self.result.n_computed += len(cells)
            bar.update(start + n_prompts - bar.n)

    def _load(self, checkpoint: Checkpoint) -> PromptBatch | None:
        """Puts a checkpoint into memory and checks that it belongs to the run."""
        try:
            loaded = self.compute.load(checkpoint, self.loaded)
            self.loaded = loaded
            self._check_unchanged(checkpoint, loaded.content_hash)
            prompts = self.compute.tokenize(loaded, self.request.facts)
            self._check_fits(checkpoint, loaded, token_digests(prompts))
        except (CheckpointError, FileAccessError) as error:
            self.loaded = None  # it may have another architecture than the next one
            self._fail(checkpoint, error)
            return None
        return prompts

    def _compute(
        self, checkpoint: Checkpoint, batch: Batch, prompts: PromptBatch, bar: tqdm
    ) -> list[Cell | FailedCell] | None:
        """The cells of a batch; None where the checkpoint turned out to be unusable."""
        assert self.loaded is not None
        assert self.record.n_edges is not None

        def advance(n_prompts: int, note: str = "", /) -> None:
            bar.set_postfix_str(note, refresh=bool(note))
            bar.update(n_prompts)

        try:
            result = self.compute.attribute(
                self.loaded, prompts.facts(batch.fact_ids), self.record.n_edges, advance
            )
            self._check_unchanged(checkpoint, self.hash_of(checkpoint))
        except (CheckpointError, FileAccessError) as error:
            self._fail(checkpoint, error)
            return None
        return cells_of_batch(
            result,
            self._facts(batch),
            batch.keys,
            checkpoint=self.loaded.content_hash,
            n_edges=self.record.n_edges,
        )

    def _check_unchanged(self, checkpoint: Checkpoint, content_hash: str) -> None:
        planned = next(c.content_hash for c in self.record.checkpoints if c.id == checkpoint.id)
        if content_hash != planned:
            raise CheckpointError(
                f"checkpoint {checkpoint.id} changed while it was used: its hash was "
                f"{(planned or '')[:12]} and is {content_hash[:12]} now; nothing of it was kept",
                file=checkpoint.adapter or checkpoint.path,
                hint="wait until the training has finished writing it, then repeat the command",
            )

    def _check_fits(self, checkpoint: Checkpoint, loaded: Loaded, tokens: dict[str, str]) -> None:
        """All checkpoints of a run have one graph, and split the facts into the same tokens."""
        known = {fact.id: fact.tokens for fact in self.record.facts if fact.tokens is not None}
        topology = self.record.topology
        other = next((i for i, ids in tokens.items() if known.get(i, ids) != ids), None)
        if other is not None or (topology is not None and topology != loaded.topology):
            what = f"token ids for fact {other!r}" if other else "layers or heads"
            raise CheckpointError(
                f"checkpoint {checkpoint.id} has other {what} than the run's other checkpoints",
                file=checkpoint.path,
                hint="circuits compare only within one model and tokenizer: make a manifest per "
                "model, or choose another run folder with --run",
            )
        settings = self.request.settings
        n_edges = edge_budget(loaded.topology, n_edges=settings.n_edges, fraction=settings.fraction)
        self.record = replace(
            with_tokens(self.record, tokens), topology=loaded.topology, n_edges=n_edges
        )
        self._write_record()

    def _compare(self, cells: list[Cell | FailedCell]) -> None:
        """Notes the cells that another batch has computed with other numbers; both are kept."""
        for cell in cells:
            row = self.store.row(cell.key)
            if row is None or row.is_failed or isinstance(cell, FailedCell):
                continue
            share = disagreement(cell, self.store.read(cell.key))
            if share > AGREEMENT:
                self.result.disagreements.append(
                    f"{cell.fact_id}: scores differ by {share:.1e} of the largest"
                )

    def _hashes(self) -> dict[str, str | None]:
        """Declared hashes are checked when the checkpoint is loaded, the others are computed."""
        hashes: dict[str, str | None] = {}
        for checkpoint in self.request.checkpoints:
            hashes[checkpoint.id] = checkpoint.sha256
            if checkpoint.sha256 is None:
                try:
                    hashes[checkpoint.id] = self.hash_of(checkpoint)
                except (CheckpointError, FileAccessError) as error:
                    self._fail(checkpoint, error)
        return hashes

    def _fail(self, checkpoint: Checkpoint, error: KCircuitsError) -> None:
        self.result.failures[checkpoint.id] = error
        self.on_failure(checkpoint.id, error)

    def _facts(self, batch: Batch) -> list[FactRecord]:
        facts = {fact.id: fact for fact in self.record.facts}
        return [facts[fact_id] for fact_id in batch.fact_ids]

    def _write_record(self) -> None:
        """Puts this request into the run's record, as the one that is opened if it is main.

        Not before a checkpoint was found to fit: a request that cannot be meant must not hide
        the results of the one before.
        """
        record = self.run_record.with_request(self.record, is_main=self.is_main)
        if record != self.run_record:
            self.run_record = record
            write_run_record(self.folder, record)

    def _count(self) -> None:
        for checkpoint in self.request.checkpoints:
            for batch in batches_at(self.record, checkpoint.id) or ():
                rows = [self.store.row(key) for key in batch.keys]
                self.result.n_done += sum(row is not None for row in rows)
                self.result.n_failed += sum(row is not None and row.is_failed for row in rows)
