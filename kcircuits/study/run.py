"""The results of a sweep, as a notebook or a verb holds them. Reading them needs no torch.

Longer than other files: every question that a run can be asked is a method here, which says what it
answers and hands on to the package that does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.core.cell import Cell
from kcircuits.core.facts import Fact
from kcircuits.core.manifest import Checkpoint, resolve_ref, resolve_refs
from kcircuits.core.topology import Topology
from kcircuits.errors import IncomparableError, UsageError
from kcircuits.io.atomic import write_atomic
from kcircuits.io.jsonl import Kinds, read_rows
from kcircuits.io.run_record import (
    CheckpointRecord,
    RequestRecord,
    RunRecord,
    read_run_record,
)
from kcircuits.io.store import CellRow, Store

if TYPE_CHECKING:
    from kcircuits.analysis.overlap.corrected import Level
    from kcircuits.study.between.facts import BetweenFacts
    from kcircuits.study.between.runs import BetweenRuns
    from kcircuits.study.diff.diff import Diff
    from kcircuits.study.evaluation.evaluation import Evaluation
    from kcircuits.study.lenses.lenses import RunLenses
    from kcircuits.study.link.link import Link
    from kcircuits.study.overlap.epoch_overlap import EpochOverlap
    from kcircuits.study.track.inspection import Inspection
    from kcircuits.study.track.track import Track
    from kcircuits.study.transfer.transfer import Transfer

_ABSENT = type(None)
# The fields that the pages read; the rest of a row is for whoever wrote it.
_PROBE: Kinds = {
    "fact": (str,), "epoch": (float, _ABSENT), "known": (bool,), "prob": (float, _ABSENT)
}  # fmt: skip
_TRAIN: Kinds = {"epoch": (float,), "loss": (float, _ABSENT)}


def open_run(path: str | Path, *, method: str | None = None) -> "Run":
    """The results in a run folder.

    Where the run was asked for with more than one method or budget, these are the results of the
    latest request; `kcircuits run` with the other settings, all finished, brings those back.

    Args:
        path: The folder.
        method: Of several requests, the latest by this method.

    Raises:
        UsageError: The folder holds no results, or none by that method.
        StoreCorruptError: A file was changed.
        FileAccessError: The disk refused.
    """
    folder = Path(path)
    record = read_run_record(folder)
    if not record.requests:
        raise UsageError(f"{folder} holds no request", hint="compute results with `kcircuits run`")
    runs = [Run(path=folder, record=record, request=request) for request in record.requests]
    chosen = [run for run in runs if method in (None, run.method)]
    if not chosen:
        there = ", ".join(dict.fromkeys(run.method for run in reversed(runs)))
        raise UsageError(
            f"{folder} holds no results by {method!r}; there are those by {there}",
            field="method",
            hint=f"compute them with `kcircuits run --method {method}`",
        )
    return chosen[-1]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The results of a sweep.

    Attributes:
        path: The run folder.
        record: All that was asked of the run.
        request: The method and budget whose results these are.
    """

    path: Path
    record: RunRecord
    request: RequestRecord

    @property
    def name(self) -> str:
        """Name of the run in its manifest."""
        return self.record.run

    @property
    def checkpoints(self) -> tuple[CheckpointRecord, ...]:
        """The checkpoints in training order, with epochs and content hashes."""
        return self.request.checkpoints

    @property
    def epochs(self) -> tuple[str, ...]:
        """Ids of the checkpoints in training order."""
        return tuple(checkpoint.id for checkpoint in self.request.checkpoints)

    @property
    def fact_ids(self) -> tuple[str, ...]:
        """Ids of the facts in the order of the facts file."""
        return tuple(fact.id for fact in self.request.facts)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The facts as they were when the run was asked for."""
        return tuple(record.fact for record in self.request.facts)

    @property
    def method(self) -> str:
        """Name of the method that found the circuits."""
        return str(self.request.settings["method"])

    @property
    def beside(self) -> tuple["Run", ...]:
        """The same run by its other requests, the latest first."""
        others = (r for r in reversed(self.record.requests) if r.id != self.request.id)
        return tuple(replace(self, request=request) for request in others)

    @property
    def fraction(self) -> float:
        """The budget as a share of all edges."""
        fraction = self.request.settings["fraction"]
        return self.n_edges / self.topology.n_edges if fraction is None else float(fraction)

    @property
    def n_edges(self) -> int:
        """The budget in edges."""
        if self.request.n_edges is None:
            raise self._nothing_computed()
        return self.request.n_edges

    @property
    def topology(self) -> Topology:
        """The graph of the model."""
        if self.request.topology is None:
            raise self._nothing_computed()
        return self.request.topology

    @cached_property
    def store(self) -> Store:
        """The results store."""
        return Store(self.path / "store")

    @property
    def probes(self) -> list[dict[str, Any]]:
        """Rows of ``probes.jsonl``: one probe of one fact at one checkpoint each."""
        return read_rows(self.path / "probes.jsonl", _PROBE)

    @property
    def train(self) -> list[dict[str, Any]]:
        """Rows of ``train.jsonl``: loss and learning rate over epochs."""
        return read_rows(self.path / "train.jsonl", _TRAIN)

    def checkpoint(self, ref: str) -> CheckpointRecord:
        """The checkpoint that ``ref`` means: an id, ``ep3``, ``step2400``, ``first`` or ``last``.

        Raises:
            UsageError: No checkpoint of this run, or more than one, has that name.
        """
        return self.checkpoints[resolve_ref(ref, self._named)]

    def select(self, refs: str) -> tuple[str, ...]:
        """Ids of the checkpoints that a list means, in training order: ``ep0,ep3..ep7,last``.

        Raises:
            UsageError: A part means no checkpoint of this run, or a range runs backwards.
        """
        return tuple(self.epochs[i] for i in resolve_refs(refs, self._named))

    def rows(self, epoch: str) -> dict[str, CellRow]:
        """What the store's index says of each fact's cell at an epoch; absent where not computed.

        Reads no arrays: for whether facts are known, values and failures.
        """
        checkpoint = self.checkpoint(epoch)
        found: dict[str, CellRow] = {}
        for fact in self.request.facts:
            key = self.request.key(checkpoint, fact)
            row = None if key is None else self.store.row(key)
            if row is not None:
                found[fact.id] = row
        return found

    def cells(
        self, epoch: str, fact_ids: Sequence[str] | None = None, *, dense: bool = False
    ) -> list[Cell]:
        """The cells of an epoch, in the order of the facts.

        Args:
            epoch: A reference to the checkpoint.
            fact_ids: Which facts, in this order; default all but those whose cell failed.
            dense: With the mean scores over all edges, which take much longer to read.

        Raises:
            UsageError: There is no such epoch or fact.
            IncomparableError: Cells are missing, or a fact that was named has failed.
            StoreCorruptError: What was read is not what was committed.
        """
        rows = self.rows(epoch)
        wanted = self.fact_ids if fact_ids is None else tuple(fact_ids)
        known = frozenset(self.fact_ids)
        for fact_id in wanted:
            if fact_id not in known:
                raise UsageError(
                    f"fact {fact_id!r} is not in this run", field="fact", hint="see `kcircuits ls`"
                )
        missing = [fact_id for fact_id in wanted if fact_id not in rows]
        if missing:
            raise IncomparableError(
                f"epoch {epoch} has {len(wanted) - len(missing)} of {len(wanted)} facts; "
                f"{missing[0]} is missing",
                hint=f"run `kcircuits run --epochs {self.checkpoint(epoch).id}`",
            )
        failed = [rows[fact_id] for fact_id in wanted if rows[fact_id].is_failed]
        if failed and fact_ids is not None:
            raise IncomparableError(
                f"fact {failed[0].fact_id} has no numbers at {epoch}: {failed[0].message}",
                hint="leave the fact out, or look for NaN in that checkpoint's weights",
            )
        return [
            self.store.read(rows[fact_id].key, dense=dense)
            for fact_id in wanted
            if not rows[fact_id].is_failed
        ]

    def diff(
        self,
        a: str,
        b: str,
        *,
        by: str | None = None,
        level: "Level" = "edge",
        facts: Sequence[str] | None = None,
    ) -> "Diff":
        """What changed between two epochs.

        Args:
            a: A reference to the first epoch.
            b: A reference to the second.
            by: Stratum key to group facts by.
            level: Compare edges or nodes.
            facts: Which facts; default all.

        Raises:
            IncomparableError: Cells are missing or do not compare.
            UsageError: There is no such epoch, fact or stratum.
        """
        _check_level(level)
        from kcircuits.study.diff.diff import Diff  # imports this module's Run

        ends = [self.checkpoint(ref) for ref in (a, b)]
        return Diff.from_cells(
            self.cells(a, facts),
            self.cells(b, facts),
            epochs=(ends[0].id, ends[1].id),
            facts=self.facts,
            by=by,
            level=level,
            fraction=self.fraction,
            unverified=[end.id for end in ends if not end.is_verified],
        )

    def overlap(
        self,
        *,
        by: str | None = None,
        level: "Level" = "edge",
        epochs: Sequence[str] | None = None,
        facts: Sequence[str] | None = None,
        **options: Any,
    ) -> "EpochOverlap":
        """How alike circuits are between all pairs of epochs, beside noise ceiling and chance.

        Args:
            by: Stratum key (or ``relation``) to group facts by.
            level: Compare edges or nodes.
            epochs: References to epochs; default all that have results.
            facts: Which facts; default all.
            options: As in ``study.overlap.read.overlap_run``: ``measures``, ``n_prompt_draws``, ...

        Raises:
            IncomparableError: There are no results, or cells do not compare.
            UsageError: There is no such epoch, fact, stratum or option.
        """
        from kcircuits.study.overlap.read import overlap_run  # imports this module's Run

        return overlap_run(self, by=by, level=level, epochs=epochs, facts=facts, **options)

    def track(
        self,
        by: str | None = None,
        level: "Level" = "edge",
        epochs: Sequence[str] | None = None,
        facts: Sequence[str] | None = None,
        **options: Any,
    ) -> "Track":
        """Circuits from epoch to epoch: births, deaths, lifetimes, core, structure, graphs.

        Args:
            by: Stratum key or ``relation`` to group facts by, or ``knowledge``: acquired, known
                before, never known.
            level: Count edges or nodes.
            epochs: References to the epochs; default all that have results.
            facts: Which facts; default all.
            options: ``seed`` and ``progress``, see ``study.track.read.track_run``.

        Raises:
            IncomparableError: There are no results, or cells do not compare.
            UsageError: There is no such epoch, fact or stratum.
        """
        from kcircuits.study.track.read import track_run  # imports this module's Run

        return track_run(self, by=by, level=level, epochs=epochs, facts=facts, **options)

    def inspect(
        self,
        fact_id: str,
        *,
        epochs: Sequence[str] | None = None,
        level: "Level" = "edge",
        **options: Any,
    ) -> "Inspection":
        """All about one fact: prompts, knowledge, its edges with their history, verdicts.

        Args:
            fact_id: The fact.
            epochs: References to the epochs; default all that have results.
            level: Count edges or nodes.
            options: ``seed`` and ``progress``, see ``study.track.inspection.inspect_fact``.

        Raises:
            UsageError: There is no such fact (the hint names near ones) or epoch.
            IncomparableError: The fact has no results, or cells do not compare.
        """
        from kcircuits.study.track.inspection import inspect_fact  # imports this module's Run

        return inspect_fact(self, fact_id, epochs=epochs, level=level, **options)

    def fact_overlap(
        self, epoch: str, *, by: str = "relation", level: "Level" = "edge"
    ) -> "BetweenFacts":
        """How alike the circuits of different facts are at an epoch.

        Args:
            epoch: A reference to the epoch.
            by: Stratum key, or ``relation``, that pairs are told apart by.
            level: Compare edges or nodes.

        Raises:
            UsageError: There is no such epoch or stratum.
            IncomparableError: Cells are missing or do not compare, or too few facts are known.
        """
        _check_level(level)
        from kcircuits.study.between.facts import BetweenFacts  # imports this module's Run

        return BetweenFacts.read(self, epoch, by=by, level=level)

    def overlap_with(
        self,
        other: "Run",
        epochs: Sequence[str] | None = None,
        *,
        by: str | None = None,
        level: "Level" = "edge",
    ) -> "BetweenRuns":
        """How alike the circuits of the same facts are in another run, or by another method.

        Args:
            other: Another training run of the same facts by the same method; or this run's
                results by another method (``open_run(path, method=...)``).
            epochs: References to epochs; default all that both have.
            by: Stratum key to group facts by.
            level: Compare edges or nodes.

        Raises:
            UsageError: There is no such epoch or stratum.
            IncomparableError: The two differ in more than the training, or than the method.
        """
        _check_level(level)
        from kcircuits.study.between.runs import BetweenRuns  # imports this module's Run

        return BetweenRuns.read(self, other, epochs, by=by, level=level)

    def evaluate(self, ref: str, **options: Any) -> "Evaluation":
        """Judges the circuits of an epoch anew on its checkpoint; needs the model.

        Args:
            ref: A reference to the checkpoint.
            options: As in ``study.evaluation.compute.evaluate_run``: ``fact_ids``, ``ablation``,
                ``metric``, ``n_edges`` or ``fraction``, ``curve``, ``n_draws``, ``memory``, ...

        Raises:
            UsageError: An epoch, fact or option that cannot be meant.
            IncomparableError: Cells are missing, or hold fewer scores than are asked for.
            CheckpointError: The checkpoint is not the one that the run has scored.
        """
        from kcircuits.study.evaluation.compute import (
            evaluate_run,  # imports torch, and this module
        )

        return evaluate_run(self, ref, **options)

    def link(self, **options: Any) -> "Link":
        """Whether circuits change before facts are forgotten; several runs: ``kcircuits.link``.

        Args:
            options: As in ``study.link.link.link``: ``by``, ``k``, ``within``, ``n_permutations``.

        Raises:
            UsageError: An option that cannot be meant.
            IncomparableError: Fewer than three epochs are complete, or cells do not compare.
        """
        from kcircuits.study.link.link import link  # imports this module's Run

        return link([self], **options)

    def transfer(self, **options: Any) -> "Transfer":
        """What circuits of an epoch do on the weights of others.

        What was judged before is read from the run folder; the rest needs the models.

        Args:
            options: As in ``study.transfer.compute.transfer_run``: ``sources``, ``targets``,
                ``by``, ``fact_ids``, ``ablation``, ``metric``, ``n_draws``, ``memory``, ...

        Raises:
            UsageError: An epoch, fact or option that cannot be meant.
            IncomparableError: Cells are missing.
            CheckpointError: A checkpoint is not the one that the run has scored.
        """
        from kcircuits.study.transfer.compute import transfer_run  # imports this module

        return transfer_run(self, **options)

    def lenses(
        self,
        refs: Sequence[str] | None = None,
        facts: Sequence[str] | None = None,
        *,
        by: str | None = None,
        **options: Any,
    ) -> "RunLenses":
        """Contributions, roles of heads and logit lens, epoch by epoch.

        What was computed before is read from the run folder; the rest needs the models.

        Args:
            refs: References to epochs; default all.
            facts: Which facts; default all.
            by: Stratum key to group facts by.
            options: As in ``study.lenses.compute.compute_lenses``: ``relation``, ``manifest``,
                ``memory``, ``progress``, ...

        Raises:
            UsageError: There is no such epoch, fact or stratum, or an option cannot be meant.
            CheckpointError: A checkpoint is not the one that the run has scored.
            StoreCorruptError: What was read is not what was written.
        """
        from kcircuits.study.lenses.compute import compute_lenses  # imports this module's Run
        from kcircuits.study.lenses.lenses import read_lenses

        failures = compute_lenses(self, refs, fact_ids=facts, **options)
        if failures:
            raise next(iter(failures.values()))
        return read_lenses(self, self.epochs if refs is None else refs, facts, by=by)

    def report(self, path: str | Path | None = None) -> Path:
        """Writes the report of the run, one self-contained HTML page.

        Args:
            path: The file; default ``figures/report.html`` in the run folder, with the method's
                name in it where the run opens with other results.
        """
        from kcircuits.study.report import report_page  # imports this module's Run

        is_main = self.request.id == self.record.requests[-1].id
        name = "report.html" if is_main else f"report-{self.method}.html"
        file = self.path / "figures" / name if path is None else Path(path)
        write_atomic(file, report_page(self))
        return file

    @property
    def _named(self) -> tuple[Checkpoint, ...]:
        """The checkpoints as references are resolved against."""
        return tuple(
            Checkpoint(id=c.id, path=Path(), epoch=c.epoch, step=c.step) for c in self.checkpoints
        )

    def _nothing_computed(self) -> IncomparableError:
        return IncomparableError(
            f"run {self.name} has no finished cell yet", hint="compute them with `kcircuits run`"
        )


def _check_level(level: str) -> None:
    if level not in ("edge", "node"):
        raise UsageError(f"level is {level!r}; expected edge or node", field="level")
