"""What a run's components say about the answers, and from where, at every epoch; needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kcircuits.analysis.fact_lenses import FactLenses, fact_lenses
from kcircuits.core.facts import Fact
from kcircuits.core.lenses import LENSES_VERSION, Relation
from kcircuits.core.topology import Topology
from kcircuits.errors import IncomparableError, UsageError
from kcircuits.io.lens_files import LensFile, open_lens_file
from kcircuits.study.lenses.tables import (
    N_HEADS,
    head_rows,
    head_step_rows,
    lens_rows,
    part_rows,
    role_rows,
    step_rows,
)
from kcircuits.study.run import Run
from kcircuits.study.strata import require_stratum
from kcircuits.sweep.request import arithmetic

if TYPE_CHECKING:
    import plotly.graph_objects as go

Row = dict[str, Any]
_HINT = "compute them with `kcircuits lens`"


@dataclass(frozen=True, kw_only=True)
class RunLenses:
    """Direct contributions, roles of heads and logit lens of a run's facts at its epochs.

    Attributes:
        run: Name of the run.
        epochs: Ids of the checkpoints.
        hashes: Their content hashes.
        facts: The facts that all of these epochs have lenses of.
        left_out: Facts that some epoch lacks.
        topology: The graph of the model.
        settings: What the numbers depend on apart from checkpoint and fact.
        fact_lenses: Of each fact in turn.
        by: Stratum key of the rows.
    """

    run: str
    epochs: tuple[str, ...]
    hashes: tuple[str, ...]
    facts: tuple[Fact, ...]
    left_out: tuple[str, ...]
    topology: Topology
    settings: Mapping[str, Any]
    fact_lenses: tuple[FactLenses, ...]
    by: str | None = None

    @property
    def interval_over(self) -> str:
        """What the 95% intervals are over."""
        return "prompts" if len(self.facts) == 1 else "subjects"

    @property
    def lens_rows(self) -> list[Row]:
        """Logit lens: see ``lens_tables.lens_rows``."""
        return lens_rows(self)

    @property
    def part_rows(self) -> list[Row]:
        """Where the answers' logits come from: see ``lens_tables.part_rows``."""
        return part_rows(self)

    @property
    def role_rows(self) -> list[Row]:
        """Heads of each role: see ``lens_tables.role_rows``."""
        return role_rows(self)

    @property
    def step_rows(self) -> list[Row]:
        """Roles that come and go from epoch to epoch: see ``lens_tables.step_rows``."""
        return step_rows(self)

    def head_rows(self, n_heads: int = N_HEADS) -> list[Row]:
        """The strongest heads of each epoch: see ``lens_tables.head_rows``."""
        return head_rows(self, n_heads)

    def head_step_rows(self, n_heads: int = N_HEADS) -> list[Row]:
        """Heads whose role changed between first and last epoch: ``lens_tables.head_step_rows``."""
        return head_step_rows(self, n_heads)

    def only(self, fact_id: str) -> "RunLenses":
        """One fact; its intervals are over prompts.

        Raises:
            UsageError: There are no lenses of such a fact.
        """
        for fact, lenses in zip(self.facts, self.fact_lenses, strict=True):
            if fact.id == fact_id:
                return replace(self, facts=(fact,), fact_lenses=(lenses,), by=None)
        raise UsageError(f"there are no lenses of fact {fact_id!r}", field="fact", hint=_HINT)

    def grouped(self, by: str | None) -> "RunLenses":
        """The same with rows by another stratum; UsageError where no fact has it."""
        require_stratum(by, self.facts)
        return replace(self, by=by)

    def plot(self) -> "go.Figure":
        """The logit lens, layer by epoch."""
        from kcircuits.plots.lenses import lens_figure

        return lens_figure(lens_rows(replace(self, by=None)))

    def to_json(self, n_heads: int = N_HEADS) -> dict[str, Any]:
        """The document that ``kcircuits lens --json`` prints."""
        return {
            "schema": "kcircuits.lens/1",
            "run": self.run,
            "epochs": list(self.epochs),
            "hashes": list(self.hashes),
            "facts": [fact.id for fact in self.facts],
            "left_out": list(self.left_out),
            "by": self.by,
            "interval_over": self.interval_over,
            "relation": self.settings["relation"],
            "dtype": self.settings["dtype"],
            "lens": self.lens_rows,
            "parts": self.part_rows,
            "roles": self.role_rows,
            "steps": self.step_rows,
            "heads": self.head_rows(n_heads),
            "head_steps": self.head_step_rows(n_heads),
        }


def read_lenses(
    run: Run,
    refs: Sequence[str] | None = None,
    fact_ids: Sequence[str] | None = None,
    *,
    by: str | None = None,
) -> RunLenses:
    """What has been computed, see ``compute_lenses``, and no more.

    Args:
        run: The run.
        refs: References to epochs; default all that have lenses.
        fact_ids: Which facts; default all. Those that an epoch lacks are left out.
        by: Stratum key to group facts by.

    Raises:
        IncomparableError: An epoch that was named has no lenses, no fact has them at all epochs,
            or they were computed with different settings.
        UsageError: There is no such epoch, fact or stratum.
        StoreCorruptError: What was read is not what was written.
    """
    wanted = require_facts(run, fact_ids)
    files = _files(run, refs)
    present = [set(_holding(run, wanted, file)) for file in files.values()]
    both = [fact_id for fact_id in wanted if all(fact_id in those for those in present)]
    if not both:
        raise IncomparableError(
            f"no fact has lenses at all of {', '.join(files)}", field="epoch", hint=_HINT
        )
    facts = {fact.id: fact for fact in run.facts}
    chosen = tuple(facts[fact_id] for fact_id in both)
    require_stratum(by, chosen)
    first = next(iter(files.values()))
    return RunLenses(
        run=run.name,
        epochs=tuple(files),
        hashes=tuple(file.shard.record["checkpoint"] for file in files.values()),
        facts=chosen,
        left_out=tuple(fact_id for fact_id in wanted if fact_id not in both),
        topology=first.topology,
        settings=first.settings,
        fact_lenses=tuple(
            fact_lenses([file.read(fact_id) for file in files.values()]) for fact_id in both
        ),
        by=by,
    )


def lens_settings(run: Run, relation: Relation, device: str) -> dict[str, Any]:
    """Everything apart from checkpoint and fact that lenses depend on."""
    dtype = str(run.request.settings["dtype"])
    return {"relation": relation, "lenses": LENSES_VERSION, **arithmetic(dtype, device)}


def due_facts(
    run: Run, epoch: str, fact_ids: Sequence[str], settings: Mapping[str, Any]
) -> list[str]:
    """The facts of which there are no lenses by these settings yet."""
    checkpoint = run.checkpoint(epoch).content_hash
    file = None if checkpoint is None else open_lens_file(run.path, checkpoint)
    if file is None or file.settings != settings:
        return list(fact_ids)
    done = set(_holding(run, fact_ids, file))
    return [fact_id for fact_id in fact_ids if fact_id not in done]


def require_facts(run: Run, fact_ids: Sequence[str] | None) -> tuple[str, ...]:
    """The facts that have prompts for discovery, in the run's order.

    Raises:
        UsageError: A fact that is not in the run.
    """
    wanted = run.fact_ids if fact_ids is None else tuple(fact_ids)
    for fact_id in wanted:
        if fact_id not in run.fact_ids:
            raise UsageError(
                f"fact {fact_id!r} is not in this run",
                field="fact",
                hint="see `kcircuits ls facts`",
            )
    return tuple(
        record.id for record in run.request.facts if record.id in wanted and record.n_prompts
    )


def resolve_refs(run: Run, refs: Sequence[str] | None) -> tuple[str, ...]:
    """Ids of epochs in training order; default all."""
    if refs is None:
        return run.epochs
    wanted = {run.checkpoint(ref).id for ref in refs}
    return tuple(epoch for epoch in run.epochs if epoch in wanted)


def _files(run: Run, refs: Sequence[str] | None) -> dict[str, LensFile]:
    """The files of the epochs that have one; all must have the same settings."""
    files: dict[str, LensFile] = {}
    missing: list[str] = []
    for epoch in resolve_refs(run, refs):
        checkpoint = run.checkpoint(epoch).content_hash
        file = None if checkpoint is None else open_lens_file(run.path, checkpoint)
        if file is not None:
            files[epoch] = file
        else:
            missing.append(epoch)
    if not files or (refs is not None and missing):
        what = f"epoch {missing[0]} of run {run.name}" if missing else f"run {run.name}"
        raise IncomparableError(f"{what} has no lenses yet", field="epoch", hint=_HINT)
    first, settings = next((epoch, file.settings) for epoch, file in files.items())
    for epoch, file in files.items():
        differing = [key for key in settings if file.settings.get(key) != settings[key]]
        if differing:
            raise IncomparableError(
                f"lenses of {first} and {epoch} were computed with other settings: "
                f"{', '.join(differing)}",
                field="epoch",
                hint="compute all anew with `kcircuits lens`",
            )
    return files


def _holding(run: Run, fact_ids: Sequence[str], file: LensFile) -> list[str]:
    """The facts whose lenses in a file are those of the run's facts and tokens."""
    kept = {fact.id: (fact.hash, fact.tokens) for fact in file.facts}
    records = {record.id: record for record in run.request.facts}
    return [
        fact_id
        for fact_id in fact_ids
        if fact_id in kept
        and kept[fact_id][0] == records[fact_id].hash
        and records[fact_id].tokens in (None, kept[fact_id][1])
    ]
