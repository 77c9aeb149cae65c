"""Tidy probe rows -> ``ProbeSeries``: every probe at every epoch, exactly once.

Rows come as columns, one sequence per field of ``probes.jsonl``, because a run may have a million
of them. A gap, a repetition or a number that is none is an error that names the row: a mean over
what happens to be there would look right.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.dynamics.series import PARAPHRASE, ProbeSeries, Skill
from kcircuits.core.facts import Fact
from kcircuits.errors import InputError

Row = Mapping[str, Any]
Columns = Mapping[str, Sequence[Any]]
FIELDS = ("checkpoint", "epoch", "strategy", "seed", "fact", "prompt_idx", "kind", "known",
          "logprob", "recall")  # fmt: skip
_PROBE_AGAIN = "probe that checkpoint again with `kcircuits lab probe`, or delete its rows"


def columns_of(rows: Sequence[Row]) -> Columns:
    """Probe rows as columns; None where a row lacks a field."""
    return {name: [row.get(name) for row in rows] for name in FIELDS}


def series_from_columns(
    columns: Columns,
    *,
    facts: Sequence[Fact] = (),
    train: Sequence[Row] = (),
    skills: Sequence[Row] = (),
    model: str | None = None,
) -> list[ProbeSeries]:
    """One series per strategy and seed, in the order of their first rows.

    Args:
        columns: ``FIELDS`` of the probe rows.
        facts: Entities (subjects) and strata; without any, each fact is an entity of its own.
        train: Rows of ``train.jsonl``; those with another strategy or seed are not a series'.
        skills: Rows of ``skills.jsonl``; likewise.
        model: Name of the base model.

    Raises:
        InputError: A gap, a repetition, or a value that is no number.
    """
    owners = list(zip(columns["strategy"], columns["seed"], strict=True))
    place = {owner: i for i, owner in enumerate(dict.fromkeys(owners))}
    if not place:
        raise InputError("there are no probe rows", hint="probe with `kcircuits lab probe`")
    owner_idx = np.fromiter(map(place.__getitem__, owners), dtype=np.int64, count=len(owners))
    made: list[ProbeSeries] = []
    for (strategy, seed), i in place.items():
        part = columns if len(place) == 1 else _rows_of(columns, np.flatnonzero(owner_idx == i))
        grid = _grid(part)
        own = {"strategy": strategy, "seed": seed}
        loss, perplexity = epoch_losses([r for r in train if _is_of(r, own)], grid.epochs)
        made.append(
            ProbeSeries(
                model=model,
                strategy=strategy,
                seed=seed,
                epochs=grid.epochs,
                fact_ids=grid.fact_ids,
                **_about(grid.fact_ids, facts),
                fact_idx=grid.fact_idx,
                kinds=grid.kinds,
                is_known=grid.is_known,
                logprob=grid.logprob,
                recall=grid.recall,
                loss=loss,
                perplexity=perplexity,
                skills=epoch_skills([r for r in skills if _is_of(r, own)], grid.epochs),
            )
        )
    return made


def epoch_losses(
    train: Sequence[Row], epochs: Float[np.ndarray, " epoch"]
) -> tuple[Float[np.ndarray, " epoch"], Float[np.ndarray, " epoch"]]:
    """Mean loss in nats per token, and perplexity, of the training before each epoch.

    A row belongs to the first of the epochs that is not before it; rows of steps are averaged.
    The perplexity is the row's own where an epoch has one row, else exp of the mean loss.
    """
    loss, perplexity = np.full(len(epochs), np.nan), np.full(len(epochs), np.nan)
    rows = [row for row in train if row.get("loss") is not None and row.get("epoch") is not None]
    if not rows:
        return loss, perplexity
    ends = np.searchsorted(epochs, [row["epoch"] for row in rows])
    for end in np.unique(ends[ends < len(epochs)]):
        here = [row for row, at in zip(rows, ends, strict=True) if at == end]
        loss[end] = np.mean([row["loss"] for row in here])
        stated = here[0].get("perplexity") if len(here) == 1 else None
        perplexity[end] = np.exp(loss[end]) if stated is None else stated
    return loss, perplexity


def epoch_skills(skills: Sequence[Row], epochs: Float[np.ndarray, " epoch"]) -> dict[str, Skill]:
    """Accuracy of each skill at each epoch; single items where rows hold ``per_item``.

    Raises:
        InputError: A skill has two rows at one epoch, or another number of items at another.
    """
    place = {epoch: i for i, epoch in enumerate(epochs.tolist())}
    by_skill: dict[str, dict[int, Row]] = {}
    for row in skills:
        if row.get("epoch") in place:
            at = by_skill.setdefault(row["skill"], {})
            if at.setdefault(place[row["epoch"]], row) is not row:
                raise InputError(
                    f"skill {row['skill']!r} has two rows at epoch {row['epoch']:g}; expected one",
                    field="skill",
                    hint="delete the rows that are out of date",
                )
    return {name: _skill(name, rows, len(epochs)) for name, rows in by_skill.items()}


def _skill(name: str, rows: Mapping[int, Row], n_epochs: int) -> Skill:
    accuracy = np.full(n_epochs, np.nan)
    for at, row in rows.items():
        accuracy[at] = row["accuracy"]
    kept = {at: row for at, row in rows.items() if row.get("per_item") is not None}
    if not kept:
        return Skill(accuracy=accuracy)
    sets = {(len(row["per_item"]), row.get("items")) for row in kept.values()}
    if len(sets) > 1:
        said = sorted(f"{n} items ({'unnamed' if of is None else of})" for n, of in sets)
        raise InputError(
            f"skill {name!r} has {' and '.join(said)} at different epochs; expected the same items "
            "in the same order",
            field="per_item",
            hint="measure the skill again with one seed",
        )
    n_items = len(next(iter(kept.values()))["per_item"])
    items = np.full((n_items, n_epochs), np.nan)
    for at, row in kept.items():
        items[:, at] = row["per_item"]
    return Skill(accuracy=accuracy, per_item=items)


@dataclass(frozen=True, kw_only=True)
class _Grid:
    epochs: Float[np.ndarray, " epoch"]
    fact_ids: tuple[str, ...]
    fact_idx: Int[np.ndarray, " probe"]
    kinds: tuple[str, ...]
    is_known: Bool[np.ndarray, "probe epoch"]
    logprob: Float[np.ndarray, "probe epoch"]
    recall: Float[np.ndarray, "probe epoch"]


def _grid(columns: Columns) -> _Grid:
    epochs, epoch_idx = np.unique(_epoch_numbers(columns), return_inverse=True)
    keys = list(zip(columns["fact"], columns["prompt_idx"], columns["kind"], strict=True))
    place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    probe_idx = np.fromiter(map(place.__getitem__, keys), dtype=np.int64, count=len(keys))
    cell = probe_idx * len(epochs) + epoch_idx
    shape = (len(place), len(epochs))
    _check_complete(columns, list(place), epochs, cell)
    facts = {fact: i for i, fact in enumerate(dict.fromkeys(fact for fact, _, _ in place))}
    known = np.zeros(len(cell), dtype=bool)
    known[cell] = np.array(columns["known"], dtype=bool)
    placed = [_placed(columns, name, cell, shape) for name in ("logprob", "recall")]
    return _Grid(
        epochs=epochs,
        fact_ids=tuple(facts),
        fact_idx=np.array([facts[fact] for fact, _, _ in place], dtype=np.int64),
        kinds=tuple(PARAPHRASE if kind is None else str(kind) for _, _, kind in place),
        is_known=known.reshape(shape),
        logprob=placed[0],
        recall=placed[1],
    )


def _epoch_numbers(columns: Columns) -> Float[np.ndarray, " row"]:
    numbers = np.array(columns["epoch"], dtype=float)  # None becomes NaN
    if np.isfinite(numbers).all():
        return numbers
    row = int(np.isfinite(numbers).argmin())
    raise InputError(
        f"checkpoint {columns['checkpoint'][row]!r} has epoch {columns['epoch'][row]}; expected a "
        "number",
        field="epoch",
        hint="give each checkpoint its epoch in the manifest and probe again",
    )


def _check_complete(
    columns: Columns,
    probes: Sequence[tuple[str, Any, Any]],
    epochs: Float[np.ndarray, " epoch"],
    cell: Int[np.ndarray, " row"],
) -> None:
    counts = np.bincount(cell, minlength=len(probes) * len(epochs))
    if (counts == 1).all():
        return
    of_rows = columns["checkpoint"]
    for wrong, what in ((counts > 1, "more than one row"), (counts == 0, "no row")):
        if not wrong.any():
            continue
        n_wrong, first = int(wrong.sum()), int(np.flatnonzero(wrong)[0])
        probe, epoch = divmod(first, len(epochs))
        fact, prompt_idx, kind = probes[probe]
        named = {of_rows[row] for row in np.flatnonzero(cell == first).tolist()}
        checkpoints = f" (checkpoint {', '.join(map(repr, sorted(named)))})" if named else ""
        raise InputError(
            f"fact {fact!r}, prompt {prompt_idx}, kind {kind!r} has {what} at epoch "
            f"{epochs[epoch]:g}{checkpoints}; expected one row of each probe at each epoch "
            f"({n_wrong:,} of {len(counts):,} are wrong)",
            field="fact",
            hint=_PROBE_AGAIN,
        )


def _placed(
    columns: Columns, name: str, cell: Int[np.ndarray, " row"], shape: tuple[int, int]
) -> Float[np.ndarray, "probe epoch"]:
    """A column as a grid; a probe has the number at all epochs or at none."""
    given = columns[name]
    flat = np.array(given, dtype=float)  # None becomes NaN
    bad: list[int] = np.flatnonzero(~np.isfinite(flat)).tolist()
    spoiled = [row for row in bad if given[row] is not None]
    values = np.empty(len(cell))
    values[cell] = flat
    values = values.reshape(shape)
    n_there = np.isfinite(values).sum(1)
    partial: list[int] = np.flatnonzero((n_there > 0) & (n_there < shape[1])).tolist()
    if not spoiled and not partial:
        return values
    if not spoiled:
        at = partial[0] * shape[1] + int(np.isfinite(values[partial[0]]).argmin())
        spoiled = [int(np.flatnonzero(cell == at)[0])]
    row = spoiled[0]
    raise InputError(
        f"fact {columns['fact'][row]!r}, prompt {columns['prompt_idx'][row]}, checkpoint "
        f"{columns['checkpoint'][row]!r} has {name} {given[row]}; expected a finite number, or "
        "none at every epoch",
        field=name,
        hint=_PROBE_AGAIN,
    )


def _about(fact_ids: Sequence[str], facts: Sequence[Fact]) -> dict[str, Any]:
    if not facts:
        return {"entities": tuple(fact_ids), "strata": tuple({} for _ in fact_ids)}
    by_id = {fact.subject: fact for fact in reversed(facts)}  # an open question about an entity
    by_id |= {fact.id: fact for fact in facts}
    for fact_id in fact_ids:
        if fact_id not in by_id:
            raise InputError(
                f"the probes ask for fact {fact_id!r}, which the facts file does not have",
                field="fact",
                hint="name the facts file that the run was probed with: --facts FILE",
            )
    chosen = [by_id[fact_id] for fact_id in fact_ids]
    return {
        "entities": tuple(fact.subject for fact in chosen),
        "strata": tuple(dict(fact.strata) for fact in chosen),
    }


def _rows_of(columns: Columns, rows: Iterable[int]) -> Columns:
    chosen = list(rows)
    return {name: [values[i] for i in chosen] for name, values in columns.items()}


def _is_of(row: Row, own: Row) -> bool:
    """Whether a row of another file belongs to this series: it names no other."""
    return all(row.get(name) in (None, value) for name, value in own.items())
