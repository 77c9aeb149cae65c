"""Puts together what the files hold of each checkpoint into one ``Transfer``."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from kcircuits.analysis.transfer.lines import Sources
from kcircuits.analysis.transfer.rows import MEASURES, Measures, OnWeights
from kcircuits.core.facts import Fact
from kcircuits.engine.metrics import get_metric
from kcircuits.io.judgements import CircuitJudgement, FactJudgement
from kcircuits.study.transfer.circuits import CircuitSet
from kcircuits.study.transfer.plan import Judgements, Label, TransferPlan
from kcircuits.study.transfer.transfer import TargetTransfer, Transfer

HIT_AT = (1, 10)


def assembled(plan: TransferPlan, there: Mapping[str, Judgements], n_computed: int) -> Transfer:
    """The transfer of a plan, from what is there of it.

    Args:
        plan: What was asked for.
        there: What the files hold, by the epoch whose weights circuits ran on.
        n_computed: Circuits of facts that ran in this call.
    """
    run = plan.run
    return Transfer(
        run=run.name,
        method=run.method,
        params=run.request.settings["params"],
        n_edges=run.n_edges,
        n_total=run.topology.n_edges,
        metric=plan.metric,
        ablation=plan.ablation,
        facts=plan.facts,
        sources=plan.sources,
        epochs={target: _target(plan, target, found) for target, found in there.items()},
        hashes={epoch: run.checkpoint(epoch).content_hash or "" for epoch in plan.rows},
        known_at=_sources(plan),
        by=plan.by,
        n_draws=plan.n_draws,
        seed=plan.seed,
        n_computed=n_computed,
    )


def _target(plan: TransferPlan, target: str, there: Judgements) -> TargetTransfer:
    judged = [there.get(plan.fact_keys[fact.id]) for fact in plan.facts]
    sets = plan.sets[target]

    def measures(kind: str, name: str) -> Measures:
        return _measures(plan, judged, [sets[Label(kind, name)]])

    def random(kind: str, name: str) -> Measures:
        drawn = [
            one
            for label, one in sets.items()
            if label[:2] == (kind, name) and label.draw is not None
        ]
        return _measures(plan, judged, drawn)

    strata = plan.of_strata.get(target, {})
    nan = float("nan")
    return TargetTransfer(
        at=OnWeights(
            clean=np.array([nan if one is None else np.mean(one.clean) for one in judged]),
            empty=np.array([nan if one is None else np.mean(one.empty) for one in judged]),
            is_known=np.array([one is not None and not one.is_gated for one in judged]),
            own=measures("epoch", target),
            half=_measures(plan, judged, [sets[Label("half", side)] for side in "01"]),
            subjects=_subjects(plan.facts),
        ),
        moved=np.array([measures("epoch", source) for source in plan.sources]),
        random=np.array([random("epoch", source) for source in plan.sources]),
        strata={name: measures("stratum", name) for name in strata},
        strata_random={name: random("stratum", name) for name in strata},
        n_facts={name: _sizes(plan, one.n_facts) for name, one in strata.items()},
        n_entities={name: _sizes(plan, one.n_entities) for name, one in strata.items()},
    )


def _measures(
    plan: TransferPlan, judged: Sequence[FactJudgement | None], sets: Sequence[CircuitSet]
) -> Measures:
    """Means over prompts and over sets of circuits; NaN for facts without one of them."""
    values: Float[np.ndarray, "set measure fact"]
    values = np.full((len(sets), len(MEASURES), len(plan.facts)), np.nan)
    for i, (fact, one) in enumerate(zip(plan.facts, judged, strict=True)):
        for k, circuits in enumerate(sets):
            if one is not None and fact.id in circuits.keys:
                values[k, :, i] = _means(one.circuits[circuits.keys[fact.id]])
    if not len(sets):
        return np.full(values.shape[1:], np.nan)
    return values.mean(0)


def _means(judged: CircuitJudgement) -> tuple[float, ...]:
    """Means over prompts, in plain numbers: arrays of so few take ten times as long."""
    rank = judged.target_rank
    hits = (sum(place <= k for place in rank) / len(rank) for k in HIT_AT)
    return (sum(judged.metric) / len(judged.metric), *hits, sum(rank) / len(rank))


def _sizes(plan: TransferPlan, sizes: Mapping[str, int]) -> np.ndarray:
    return np.array([sizes.get(fact.id, 0) for fact in plan.facts])


def _subjects(facts: Sequence[Fact]) -> np.ndarray:
    """Subjects as numbers in the order of their names, which are quick to sort."""
    return np.unique([fact.subject for fact in facts], return_inverse=True)[1]


def _sources(plan: TransferPlan) -> Sources:
    """What the sweep says of the facts at the epochs that circuits come from."""
    sign = (
        1 if get_metric(str(plan.run.request.settings["params"]["metric"])).is_higher_better else -1
    )

    def values(epoch: str, name: str) -> list[float]:
        rows = plan.rows[epoch]
        found = [rows[f.id].values.get(name) if f.id in rows else None for f in plan.facts]
        return [float("nan") if value is None else sign * value for value in found]

    metric, clean, empty = (
        np.array([values(epoch, name) for epoch in plan.sources])
        for name in ("metric", "clean_metric", "empty_metric")
    )
    known = [plan.known(epoch) for epoch in plan.sources]
    rows = [plan.rows[epoch] for epoch in plan.sources]
    return Sources(
        is_known=np.array([[f.id in at for f in plan.facts] for at in known]),
        is_answered=np.array(
            [[f.id in at and at[f.id].is_known for f in plan.facts] for at in rows]
        ),
        gained=metric - empty,
        gap=clean - empty,
        subjects=_subjects(plan.facts),
    )
