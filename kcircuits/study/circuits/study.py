"""A study of circuits over epochs: the same benchmark, one strategy, several training seeds.

Four questions, each with its table: how much of the turnover that is reported is noise of the
method; do the circuits of acquired facts settle; does turnover precede forgetting; do circuits move
from deep to shallow layers? Beside them stands a run trained at a rate of 0. Intervals are over
entities, an entity with its facts and steps in all seeds at once: training seeds share the
benchmark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from kcircuits.analysis.overlap.corrected import jaccard_from_overlap
from kcircuits.analysis.overlap.jackknife import Interval, jackknife_ratio
from kcircuits.analysis.overlap.noise_share import noise_share
from kcircuits.errors import UsageError
from kcircuits.study.circuits.dataset import dataset_rows
from kcircuits.study.diff.tables import number
from kcircuits.study.link.link import Link, link
from kcircuits.study.overlap.epoch_overlap import EpochOverlap
from kcircuits.study.run import Run
from kcircuits.study.track.groups import KNOWLEDGE, NEVER_KNOWN, FactTrack, groups_of
from kcircuits.study.track.read import track_run
from kcircuits.study.track.settling import settling_rows, trend_rows
from kcircuits.study.track.track import Track

Row = dict[str, Any]
SCHEMA = "kcircuits.circuit-study/1"
ALL_SEEDS = "all"
# What is compared with what: each epoch with the one before, and with the untrained model.
AGAINST = ("previous", "first")


@dataclass(frozen=True, kw_only=True)
class CircuitStudy:
    """Runs of one benchmark and strategy; made by ``open_circuit_study``.

    Attributes:
        runs: One per training seed.
        seeds: Their seeds.
        still: The run at a rate of 0; None where there is none.
        overlaps: Overlap between all pairs of epochs of each run.
        tracks: Circuits over epochs of each run.
        link: Turnover and forgetting, all runs together.
    """

    runs: tuple[Run, ...]
    seeds: tuple[str, ...]
    still: Run | None
    overlaps: tuple[EpochOverlap, ...]
    tracks: tuple[Track, ...]
    link: Link

    @cached_property
    def noise(self) -> list[Row]:
        """How much of what differs between circuits of a fact is noise of the method.

        Rows per ``against``, ``facts_are`` (``known`` at both epochs, or ``all``) and ``seed``
        (and all seeds together): ``steps`` (pairs of a fact and two epochs), ``entities``;
        ``apparent``, 1 - Jaccard of the circuits of the same prompts, what earlier work would
        print; ``differs``, 1 - k_st; ``noise``, 1 - c; ``noise_share`` and ``turnover``, both with
        intervals over entities.
        """
        terms = dict(zip(self.seeds, self.overlaps, strict=True))
        return [
            _noise_row(against, facts_are, seed, chosen)
            for against in AGAINST
            for facts_are in ("known", "all")
            for seed, chosen in [
                *((s, [o]) for s, o in terms.items()),
                (ALL_SEEDS, [*terms.values()]),
            ]
        ]

    @cached_property
    def steps(self) -> list[Row]:
        """The numbers of ``noise`` at each epoch against the one before, all seeds together."""
        epochs = self.runs[0].epochs
        return [
            {"from": start, "to": stop}
            | _noise_row("previous", facts_are, ALL_SEEDS, self.overlaps, place)
            for facts_are in ("known", "all")
            for place, (start, stop) in enumerate(pairwise(epochs))
        ]

    @cached_property
    def dataset(self) -> list[Row]:
        """One circuit for all facts together; rows of ``dataset_rows`` with ``seed``."""
        return [
            {"seed": seed, **row}
            for seed, run in zip(self.seeds, self.runs, strict=True)
            for row in dataset_rows(run)
        ]

    @cached_property
    def at_rest(self) -> Row | None:
        """The run at a rate of 0: checkpoints, turnover, and what halves have in common.

        ``epochs`` and ``checkpoints`` that differ; over all ``facts``, known or not, since nothing
        changed: ``jaccard_same_prompts`` and ``turnover`` of the first and the last epoch,
        ``jaccard_of_halves`` at one epoch.
        """
        if self.still is None:
            return None
        found = self.still.overlap()
        hashes = {c.content_hash for c in self.still.checkpoints}
        last = len(found.epochs) - 1
        summary = next(iter(found.summaries.values()))
        return {
            "epochs": len(found.epochs),
            "checkpoints": len(hashes),
            "facts": int(summary.n_facts[0, last]),
            "jaccard_same_prompts": number(summary.means["same_prompts"][0, last]),
            "turnover": number(summary.measures["overlap"].turnover.value[0, last]),
            "jaccard_of_halves": number(_jaccard_of_halves(found)),
        }

    @cached_property
    def settling(self) -> list[Row]:
        """Turnover, births and deaths by steps since a fact was acquired, all seeds together."""
        return settling_rows(_facts_of(self.tracks), seed=0)

    @cached_property
    def depth(self) -> list[Row]:
        """How the mean sender layer of circuits moves while their facts are known.

        Rows ``depth`` of ``Track.trends`` per ``seed`` and all together, by ``group``: facts that
        were acquired, and facts known before.
        """
        named = [(seed, [track]) for seed, track in zip(self.seeds, self.tracks, strict=True)]
        return [
            {"seed": seed, "group": group, **row}
            for seed, tracks in [*named, (ALL_SEEDS, self.tracks)]
            for group, members in groups_of(_facts_of(tracks), KNOWLEDGE).items()
            if group != NEVER_KNOWN
            for row in trend_rows(members, "edge", seed=0)
            if row["measure"] == "depth"
        ]

    def to_json(self) -> Row:
        """All tables as one document."""
        first = self.runs[0]
        return {
            "schema": SCHEMA,
            "runs": [
                {"run": run.name, "seed": seed, "known": [_n_known(run, e) for e in run.epochs]}
                for run, seed in zip(self.runs, self.seeds, strict=True)
            ],
            "epochs": list(first.epochs),
            "facts": len(first.facts),
            "entities": len({fact.subject for fact in first.facts}),
            "method": first.method,
            "n_edges": first.n_edges,
            "at_rest": self.at_rest,
            "noise": self.noise,
            "steps": self.steps,
            "dataset": self.dataset,
            "settling": self.settling,
            "depth": self.depth,
            "link": {
                name: getattr(self.link, name) for name in ("rows", "seeds", "steps", "same_step")
            },
            "distinctions": [found.row() for found in self.link.distinctions],
        }


def open_circuit_study(runs: Sequence[Run], still: Run | None = None) -> CircuitStudy:
    """The study of finished runs.

    Args:
        runs: One per training seed, of one benchmark, strategy, method and budget.
        still: A run at a rate of 0 on the same benchmark.

    Raises:
        UsageError: No run, or runs of other facts or epochs.
        IncomparableError: Runs of other methods, budgets or graphs.
    """
    if not runs:
        raise UsageError("no run is named", field="run", hint="name a run folder")
    for run in runs:
        for what in ("epochs", "fact_ids"):
            if getattr(run, what) != getattr(runs[0], what):
                raise UsageError(
                    f"{run.path} has other {what.replace('_', ' ')} than {runs[0].path}",
                    field="run",
                    hint="a study compares training seeds of one benchmark",
                )
    linked = link(runs)
    return CircuitStudy(
        runs=tuple(runs),
        seeds=tuple(str(source.seed) for source in linked.sources),
        still=still,
        overlaps=tuple(run.overlap() for run in runs),
        tracks=tuple(track_run(run) for run in runs),
        link=linked,
    )


def _facts_of(tracks: Sequence[Track]) -> list[FactTrack]:
    return [one for track in tracks for one in track.facts]


def _noise_row(
    against: str,
    facts_are: str,
    seed: str,
    overlaps: Sequence[EpochOverlap],
    place: int | None = None,
) -> Row:
    parts = [_terms(overlap, against, facts_are, place) for overlap in overlaps]
    k_st, ceiling, same, entities = (np.concatenate(part) for part in zip(*parts, strict=True))
    share, turnover = (
        noise_share(k_st, ceiling, entities),
        jackknife_ratio(k_st, ceiling, entities),
    )
    return {
        "against": against,
        "facts_are": facts_are,
        "seed": seed,
        "steps": len(k_st),
        "entities": share.n_entities,
        "apparent": _mean(1 - same),
        "differs": _mean(1 - k_st),
        "noise": _mean(1 - ceiling),
        **_ends("noise_share", share),
        **_ends("turnover", turnover),
    }


def _terms(
    overlap: EpochOverlap, against: str, facts_are: str, place: int | None
) -> tuple[np.ndarray, ...]:
    """k_st, c, Jaccard of the same prompts, and entity of every fact and step that counts."""
    k, same = overlap.tables["overlap"], overlap.tables["same_prompts"]
    stop = np.arange(1, k.shape[1])
    start = stop - 1 if against == "previous" else np.zeros_like(stop)
    if place is not None:
        start, stop = start[place : place + 1], stop[place : place + 1]
    own = np.maximum(np.diagonal(k, axis1=1, axis2=2), 0)
    k_st, jaccard = k[:, start, stop], same[:, start, stop]
    ceiling = np.sqrt(own[:, start] * own[:, stop])
    counted = np.isfinite(k_st) & np.isfinite(ceiling)
    if facts_are == "known":
        counted &= overlap.is_compared[:, start, stop]
    entities = np.array([fact.subject for fact in overlap.facts])
    named = np.broadcast_to(entities[:, None], k_st.shape)
    return k_st[counted], ceiling[counted], jaccard[counted], named[counted]


def _jaccard_of_halves(overlap: EpochOverlap) -> float:
    """Of all facts at the first epoch."""
    k, chance = (overlap.tables[name][:, 0, 0] for name in ("overlap", "overlap_chance"))
    return float(jaccard_from_overlap(np.mean(chance + k * (1 - chance))))


def _n_known(run: Run, epoch: str) -> int:
    return sum(row.is_known for row in run.rows(epoch).values())


def _mean(values: np.ndarray) -> float | None:
    return number(float(values.mean())) if len(values) else None


def _ends(name: str, found: Interval) -> Row:
    return {
        name: number(found.estimate),
        f"{name}_low": number(found.low),
        f"{name}_high": number(found.high),
    }
