"""Verdicts: changed, no change beyond noise, or cannot tell, with the reason.

| | changed | no change |
|---|---|---|
| a fact | q <= .05 in the swap test and tau >= .10 | tau + 1.645 sd(T*) / c < .15 |
| a stratum | lower bound > .05 and joint swap p <= .05 | upper bound < .10 |

Everything else is undetermined; absence of evidence is not "no change". Simulated at no change
(100 facts, 4 to 16 prompts) at most one fact in 1,000 is called changed. Identical scores have
turnover exactly 0 and need no test.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from kcircuits.analysis.overlap.jackknife import MIN_ENTITIES, Interval, jackknife_ratio
from kcircuits.analysis.overlap.swap_test import (
    ALPHA,
    JointTest,
    holm,
    joint_swap_test,
    swap_test,
)
from kcircuits.analysis.overlap.turnover import FactOverlap, has_ceiling, pooled_turnover

Word = Literal["changed", "no-change", "undetermined"]

MIN_PROMPTS = 4
MIN_PROMPTS_ONE_FACT = 6
MIN_PROMPTS_FEW_FACTS = 8
FEW_FACTS = 20
FACT_CHANGED, FACT_NO_CHANGE = 0.10, 0.15
STRATUM_CHANGED, STRATUM_NO_CHANGE = 0.05, 0.10
ONE_SIDED_95 = 1.645
IDENTICAL = "identical scores"
OTHER_UNITS = "scores of different methods cannot change places"
LOW_CEILING = "ceiling too low: the method does not reproduce this circuit in other prompts"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A verdict with the numbers it rests on; NaN where there is none.

    Attributes:
        word: ``changed``, ``no-change`` or ``undetermined``.
        reason: Why; for ``undetermined`` what stands in the way.
        turnover: Tau.
        low: Lower bound of tau: 95% two-sided for a stratum, 90% for a fact (so that its upper
            bound is the one that the rule compares).
        high: Upper bound.
        detectable: The smallest tau that would have been called changed, in this step alone.
        p: What the rule holds against .05: q of a fact, the joint p of a stratum.
    """

    word: Word
    reason: str
    turnover: float = np.nan
    low: float = np.nan
    high: float = np.nan
    detectable: float = np.nan
    p: float = np.nan


def judge_facts(
    facts: Sequence[FactOverlap], left_out: Sequence[str | None]
) -> tuple[Verdict, ...]:
    """Judges each fact of one step.

    Args:
        facts: All facts of the step.
        left_out: Why a fact is not tested (it is not known at an epoch); None where it is.
    """
    tested = [
        i
        for i, fact in enumerate(facts)
        if left_out[i] is None
        and not fact.is_identical
        and fact.n_prompts >= MIN_PROMPTS
        and fact.has_ceiling
    ]
    n_facts = sum(reason is None for reason in left_out)
    verdicts = [_untested(*pair, n_facts) for pair in zip(facts, left_out, strict=True)]
    if tested:
        step = swap_test([facts[i].statistics for i in tested])
        for row, i in enumerate(tested):
            tau, ceiling = facts[i].turnover, facts[i].ceiling
            margin = ONE_SIDED_95 * float(step.spread[row]) / ceiling
            numbers = {
                "turnover": tau,
                "low": tau - margin,
                "high": tau + margin,
                "detectable": max(FACT_CHANGED, float(step.detectable[row]) / ceiling),
                "p": float(step.q[row]),
            }
            word, reason = _fact_rule(tau, tau + margin, float(step.q[row]))
            if obstacle := too_few(facts[i].n_prompts, n_facts):
                word, reason = "undetermined", obstacle
            verdicts[i] = Verdict(word=word, reason=reason, **numbers)
    return tuple(verdicts)


def hold_over_steps(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """One fact's verdicts at the steps of a track, its q adjusted by Holm over them.

    Args:
        verdicts: Of one fact, from ``judge_facts`` of each step.
    """
    tested = [i for i, verdict in enumerate(verdicts) if np.isfinite(verdict.p)]
    held = list(verdicts)
    for i, p in zip(tested, holm(np.array([verdicts[i].p for i in tested])).tolist(), strict=True):
        held[i] = replace(verdicts[i], p=p)
        if verdicts[i].word == "changed":
            reason = f"swap test q = {p:.2g}{_over(len(tested))}"
            word, other = _fact_rule(verdicts[i].turnover, verdicts[i].high, p)
            held[i] = replace(held[i], word=word, reason=other if word == "no-change" else reason)
    return tuple(held)


def is_testable(facts: Sequence[FactOverlap]) -> bool:
    """Whether the facts of a stratum can be judged together: a change, halves and a ceiling."""
    return (
        bool(facts)
        and not all(fact.is_identical for fact in facts)
        and min(fact.n_prompts for fact in facts) >= 2
        and has_ceiling(facts)
    )


def judge_stratum(
    facts: Sequence[FactOverlap],
    entities: Sequence[str],
    templates: Sequence[Sequence[Hashable]],
    joint: JointTest | None = None,
) -> Verdict:
    """Judges the facts of a stratum together.

    Args:
        facts: Those known at both epochs.
        entities: The entity of each fact: the unit of the jackknife.
        templates: The template of each prompt of each fact; equal ones swap jointly.
        joint: The joint swap test, where the step is one of a track, see ``joint_step_tests``.
    """
    if not facts:
        return Verdict(word="undetermined", reason="no fact is known at both epochs")
    if all(fact.is_identical for fact in facts):
        return _identical()
    n_prompts = min(fact.n_prompts for fact in facts)
    if not is_testable(facts):
        reason = too_few(n_prompts, len(facts)) or LOW_CEILING
        return Verdict(word="undetermined", reason=reason)
    interval = jackknife_ratio(
        np.array([fact.k_st[0] for fact in facts]),
        np.array([fact.ceiling for fact in facts]),
        np.array(entities),
    )
    if joint is None:
        joint = joint_swap_test([fact.statistics for fact in facts], templates)
    total = sum(fact.ceiling for fact in facts)
    word, reason = _stratum_rule(interval, joint)
    if obstacle := too_few(n_prompts, len(facts)):
        word, reason = "undetermined", obstacle
    seen = STRATUM_CHANGED + interval.quantile * interval.standard_error
    return Verdict(
        word=word,
        reason=reason,
        turnover=pooled_turnover(facts),
        low=interval.low,
        high=interval.high,
        detectable=max(seen, joint.detectable / total),
        p=joint.p,
    )


def judge_methods(facts: Sequence[FactOverlap], entities: Sequence[str]) -> Verdict:
    """Turnover between two methods with its interval; never a verdict, for there is no test.

    Args:
        facts: Those known; their labels not swapped.
        entities: The entity of each fact: the unit of the jackknife.
    """
    if not facts:
        return Verdict(word="undetermined", reason="no fact is known")
    if all(fact.is_identical for fact in facts):
        return _identical()
    if min(fact.n_prompts for fact in facts) < 2:
        return Verdict(word="undetermined", reason="fewer than 2 prompts or folds have no halves")
    if not has_ceiling(facts):
        return Verdict(word="undetermined", reason=LOW_CEILING)
    interval = jackknife_ratio(
        np.array([fact.k_st[0] for fact in facts]),
        np.array([fact.ceiling for fact in facts]),
        np.array(entities),
    )
    return Verdict(
        word="undetermined",
        reason=OTHER_UNITS,
        turnover=pooled_turnover(facts),
        low=interval.low,
        high=interval.high,
    )


def _untested(fact: FactOverlap, left_out: str | None, n_facts: int) -> Verdict:
    if fact.is_identical:
        return _identical()
    reason = left_out or too_few(fact.n_prompts, n_facts) or LOW_CEILING
    return Verdict(word="undetermined", reason=reason, turnover=fact.turnover)


def _identical() -> Verdict:
    return Verdict(
        word="no-change", reason=IDENTICAL, turnover=0.0, low=0.0, high=0.0, detectable=0.0
    )


def too_few(n_prompts: int, n_facts: int) -> str | None:
    """The reason why prompts or facts do not suffice; None where they do."""
    if n_prompts < MIN_PROMPTS:
        return f"{n_prompts} discovery prompts; at least {MIN_PROMPTS} are needed"
    if n_facts == 1 and n_prompts < MIN_PROMPTS_ONE_FACT:
        return f"one fact alone needs {MIN_PROMPTS_ONE_FACT} discovery prompts; it has {n_prompts}"
    if n_facts < FEW_FACTS and n_prompts < MIN_PROMPTS_FEW_FACTS:
        return (
            f"{n_facts} facts with {n_prompts} discovery prompts; "
            f"fewer than {FEW_FACTS} facts need {MIN_PROMPTS_FEW_FACTS}"
        )
    return None


def _fact_rule(tau: float, high: float, q: float) -> tuple[Word, str]:
    if q <= ALPHA and tau >= FACT_CHANGED:
        return "changed", f"swap test q = {q:.2g}"
    if high < FACT_NO_CHANGE:
        return "no-change", f"turnover above {FACT_NO_CHANGE} is ruled out"
    return "undetermined", f"interval too wide: turnover up to {high:.2f} is possible"


def _stratum_rule(interval: Interval, joint: JointTest) -> tuple[Word, str]:
    if interval.n_entities < MIN_ENTITIES:
        return "undetermined", f"entities: {interval.n_entities}; {MIN_ENTITIES} are needed"
    if interval.low > STRATUM_CHANGED:
        if joint.p <= ALPHA:
            return "changed", f"joint swap test p = {joint.p:.2g}{_over(joint.n_steps)}"
        return "undetermined", (
            f"templates swapped jointly give p = {joint.p:.2g}{_over(joint.n_steps)}: "
            "it may be a few templates that changed"
        )
    if interval.high < STRATUM_NO_CHANGE:
        return "no-change", f"turnover above {STRATUM_NO_CHANGE:.2f} is ruled out"
    return "undetermined", f"interval too wide: turnover up to {interval.high:.2f} is possible"


def _over(n_steps: int) -> str:
    return f" (Holm over {n_steps} steps)" if n_steps > 1 else ""
