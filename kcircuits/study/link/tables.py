"""The tables of a link: turnover before forgetting, of each step, and by what happened in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kcircuits.analysis.link.same_step import CHANGES, StepTurnover, mean_turnover, step_changes
from kcircuits.analysis.link.trajectories import Trajectories
from kcircuits.analysis.link.turnover_forgetting import ForgettingTest, forgetting_test
from kcircuits.analysis.link.verdict import LinkWord, judge_link
from kcircuits.analysis.overlap.jackknife import Interval
from kcircuits.analysis.overlap.swap_test import holm
from kcircuits.study.diff.tables import number
from kcircuits.study.link.sources import LinkSource
from kcircuits.study.strata import strata_of

Row = dict[str, Any]
# What a step is followed by, for facts known at both of its ends.
OUTCOMES = ("forgotten", "retained")


@dataclass(frozen=True, kw_only=True)
class StratumTest:
    """The facts of one stratum, in all training runs together and in each alone.

    Attributes:
        sources: The runs.
        stratum: Name of the stratum.
        n_facts: Facts in it, in all runs.
        pooled: All runs together.
        alone: Each run.
        p_adjusted: p of ``pooled``, Holm over the strata.
        verdict: Of ``pooled``.
        reason: Why.
    """

    sources: tuple[LinkSource, ...]
    stratum: str
    n_facts: int
    pooled: ForgettingTest
    alone: tuple[ForgettingTest, ...]
    p_adjusted: float = np.nan
    verdict: LinkWord = "undetermined"
    reason: str = ""

    def row(self) -> Row:
        """As a row of ``Link.rows``."""
        return {
            **head(self.sources),
            "stratum": self.stratum,
            "facts": self.n_facts,
            **_test_row(self.pooled),
            "p_adjusted": number(self.p_adjusted),
            "verdict": self.verdict,
            "reason": self.reason,
        }

    def seed_rows(self) -> list[Row]:
        """As rows of ``Link.seeds``."""
        return [
            {**run_head(source), "stratum": self.stratum, **_test_row(test)}
            for source, test in zip(self.sources, self.alone, strict=True)
        ]


def head(sources: Sequence[LinkSource]) -> Row:
    """Which question a row is about."""
    first = sources[0]
    return {"model": first.model, "strategy": first.strategy, "seeds": len(sources)}


def run_head(source: LinkSource) -> Row:
    """Which training run a row is about."""
    return {
        "model": source.model,
        "strategy": source.strategy,
        "seed": source.seed,
        "run": source.run.name,
    }


def run_row(source: LinkSource) -> Row:
    """What was read of a run."""
    return {
        **run_head(source),
        "method": source.run.method,
        "n_edges": source.first_cell.n_edges,
        "prompts": len(source.first_cell.prompt_idx),
        "epochs": list(source.epochs),
        "skipped_epochs": list(source.skipped),
        "facts": len(source.facts),
        "entities": len({fact.subject for fact in source.facts}),
        "left_out": source.left_out,
        "margins": source.trajectories.margin.shape[2],
    }


def stratum_tests(
    sources: Sequence[LinkSource], by: str | None, *, n_permutations: int, seed: int
) -> list[StratumTest]:
    """Tests each stratum, then judges all of them."""
    drafts: list[StratumTest] = []
    for stratum, runs in _by_stratum(sources, by).items():
        tests = [
            forgetting_test(part, n_permutations=n_permutations, seed=seed)
            for part in ([runs] if len(runs) == 1 else [runs, *([run] for run in runs)])
        ]
        drafts.append(
            StratumTest(
                sources=tuple(sources),
                stratum=stratum,
                n_facts=sum(len(run.entities) for run in runs),
                pooled=tests[0],
                alone=tuple(tests[1:] or tests),
            )
        )
    found = np.array([draft.pooled.p for draft in drafts])
    is_there = np.isfinite(found)
    found[is_there] = holm(found[is_there])
    judged = [
        (p, *judge_link(draft.pooled, p, len(sources)))
        for draft, p in zip(drafts, found.tolist(), strict=True)
    ]
    return [
        replace(draft, p_adjusted=p, verdict=word, reason=reason)
        for draft, (p, word, reason) in zip(drafts, judged, strict=True)
    ]


def step_rows(sources: Sequence[LinkSource]) -> list[Row]:
    """Turnover of each step, of the facts forgotten next and of those retained."""
    names = [list(zip(source.epochs, source.epochs[1:-1], strict=False)) for source in sources]
    runs = [source.trajectories for source in sources]
    rows: list[Row] = []
    for start, stop in dict.fromkeys(step for own in names for step in own):
        for outcome in OUTCOMES:
            chosen: list[np.ndarray] = []
            for run, own in zip(runs, names, strict=True):
                lost = run.is_forgotten
                which = lost if outcome == "forgotten" else run.is_at_risk & ~lost
                is_step = np.array([step == (start, stop) for step in own], dtype=bool)
                chosen.append(np.pad(which & is_step, ((0, 0), (0, 1))))
            about = {"from": start, "to": stop, "outcome": outcome}
            rows.append({**head(sources), **about, **_turnover_row(mean_turnover(runs, chosen))})
    return rows


def same_step_rows(sources: Sequence[LinkSource], by: str | None) -> list[Row]:
    """Turnover by what happened in the same step, of each stratum."""
    rows: list[Row] = []
    for stratum, runs in _by_stratum(sources, by).items():
        changes = [step_changes(run.is_known) for run in runs]
        for place, change in enumerate(CHANGES):
            found = mean_turnover(runs, [of_run == place for of_run in changes])
            about = {"stratum": stratum, "change": change}
            rows.append({**head(sources), **about, **_turnover_row(found)})
    return rows


def _by_stratum(sources: Sequence[LinkSource], by: str | None) -> dict[str, list[Trajectories]]:
    """The facts of each stratum in each run; a run without such facts has none of them."""
    places = [strata_of(source.facts, by) for source in sources]
    found: dict[str, list[Trajectories]] = {}
    for stratum in sorted({name for of_run in places for name in of_run}):
        runs: list[Trajectories] = []
        for source, of_run in zip(sources, places, strict=True):
            chosen = np.zeros(len(source.facts), dtype=bool)
            chosen[of_run.get(stratum, [])] = True
            runs.append(source.trajectories.only(chosen))
        found[stratum] = runs
    return found


def _test_row(test: ForgettingTest) -> Row:
    return {
        "at_risk": test.n_at_risk,
        "forgotten": test.n_forgotten,
        "entities": test.n_entities,
        "forgotten_entities": test.n_forgotten_entities,
        **_interval_row("auroc", test.auroc),
        **_interval_row("auroc_raw", test.auroc_raw),
        "tau_forgotten": number(test.tau_forgotten),
        "tau_retained": number(test.tau_retained),
        **_interval_row("tau_difference", test.tau_difference),
        "ceiling_forgotten": number(test.ceiling_forgotten),
        "ceiling_retained": number(test.ceiling_retained),
        "z": number(test.z) if math.isfinite(test.p) else None,
        "p": number(test.p),
        "distinct": number(test.n_distinct),
    }


def _turnover_row(found: StepTurnover) -> Row:
    return {
        "fact_steps": found.n_steps,
        "entities": found.n_entities,
        "ceiling": number(found.ceiling),
        **_interval_row("turnover", found.turnover),
    }


def _interval_row(name: str, value: Interval) -> Row:
    return {
        name: number(value.estimate),
        f"{name}_low": number(value.low),
        f"{name}_high": number(value.high),
    }
