"""Two runs, or one run by two methods, on common ground: facts, epochs and cells of both."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from kcircuits.core.cell import Cell
from kcircuits.errors import IncomparableError
from kcircuits.study.run import Run

Kind = Literal["runs", "methods"]
Pair = tuple[Cell, Cell]


def method_of(run: Run) -> tuple[str, Mapping[str, Any]]:
    """Method of a run's results and its parameters."""
    return run.method, dict(run.request.settings.get("params", {}))


def names_of(run: Run, other: Run, kind: Kind) -> tuple[str, str]:
    """What to call the two: methods with what tells them apart, or runs by folder."""
    if kind == "runs":
        return _apart(run, other)
    if run.method != other.method:
        return run.method, other.method
    params = [method_of(one)[1] for one in (run, other)]
    keys = sorted(k for k in {*params[0], *params[1]} if params[0].get(k) != params[1].get(k))
    told = [", ".join(f"{k} {one.get(k)}" for k in keys) for one in params]
    return f"{run.method} ({told[0]})", f"{run.method} ({told[1]})"


def _apart(run: Run, other: Run) -> tuple[str, str]:
    """Names of two runs: as many last parts of their folders as tell them apart."""
    paths = [one.path.resolve().parts for one in (run, other)]
    for depth in range(1, max(map(len, paths)) + 1):
        ends = ["/".join(parts[-depth:]) for parts in paths]
        if ends[0] != ends[1]:
            return ends[0], ends[1]
    return f"{run.name} (1)", f"{other.name} (2)"


def check_facts(run: Run, other: Run, names: tuple[str, str]) -> None:
    """Refuses facts that have one name and are not the same.

    Raises:
        IncomparableError: Such a fact, or no fact in common.
    """
    here, there = ({fact.id: fact for fact in one.request.facts} for one in (run, other))
    common = [fact_id for fact_id in here if fact_id in there]
    if not common:
        raise IncomparableError(
            f"{names[0]} and {names[1]} have no fact in common",
            field="facts",
            hint="compare runs of one facts file",
        )
    for fact_id in common:
        ours, theirs = here[fact_id], there[fact_id]
        if ours.hash != theirs.hash:
            what, hint = "content", "compare runs of one facts file"
        elif None not in (ours.tokens, theirs.tokens) and ours.tokens != theirs.tokens:
            what, hint = "token ids", "compare runs of models with one tokenizer"
        else:
            continue
        raise IncomparableError(
            f"fact {fact_id!r} has other {what} in {names[0]} than in {names[1]}",
            field="facts" if what == "content" else "tokenizer",
            hint=hint,
        )


def common_epochs(
    run: Run, other: Run, refs: Sequence[str] | None, kind: Kind, names: tuple[str, str]
) -> list[str]:
    """Ids of the epochs at which both have cells, in training order.

    Raises:
        UsageError: A reference means none of the first's.
        IncomparableError: There is none, or one that was named is not; other checkpoints, of
            methods; other epochs of one name, of runs.
    """
    wanted = None if refs is None else {run.checkpoint(ref).id for ref in refs}
    found = [
        epoch
        for epoch in run.epochs
        if (wanted is None or epoch in wanted)
        and epoch in other.epochs
        and _done(run, epoch) & _done(other, epoch)
    ]
    absent = sorted((wanted or set()) - set(found))
    if not found or absent:
        at = f" at {', '.join(absent)}" if absent else ""
        raise IncomparableError(
            f"{names[0]} and {names[1]} have no common fact with finished cells{at}",
            field="epochs",
            hint="compute them in both with `kcircuits run`",
        )
    for epoch in found:
        ours, theirs = run.checkpoint(epoch), other.checkpoint(epoch)
        if kind == "methods" and ours.content_hash != theirs.content_hash:
            raise IncomparableError(
                f"{run.path.name} and {other.path.name} differ in their method ({names[0]}; "
                f"{names[1]}) and at {epoch} in their checkpoint: what differs could not be told",
                field="method",
                hint="compare two methods on the same checkpoints, or two runs by one method",
            )
        if ours.epoch != theirs.epoch:
            raise IncomparableError(
                f"{epoch} is epoch {ours.epoch} of {names[0]} and epoch {theirs.epoch} of "
                f"{names[1]}",
                field="epochs",
                hint="name checkpoints of the same epoch alike in both manifests",
            )
    return found


def _done(run: Run, epoch: str) -> set[str]:
    return {fact_id for fact_id, row in run.rows(epoch).items() if not row.is_failed}


def hashes_at(run: Run, other: Run, epoch: str) -> tuple[str, str]:
    """Content hashes of both checkpoints."""
    first, second = (one.checkpoint(epoch).content_hash or "" for one in (run, other))
    return first, second


def cell_pairs(run: Run, other: Run, epoch: str) -> tuple[dict[str, Pair], tuple[str, ...]]:
    """Both cells of each fact that has two, and the facts that have one."""
    done = [_done(one, epoch) for one in (run, other)]
    both = [fact_id for fact_id in run.fact_ids if fact_id in done[0] & done[1]]
    every = dict.fromkeys([*run.fact_ids, *other.fact_ids])
    cells = zip(run.cells(epoch, both), other.cells(epoch, both), strict=True)
    lacking = tuple(fact_id for fact_id in every if fact_id not in both)
    return dict(zip(both, cells, strict=True)), lacking
