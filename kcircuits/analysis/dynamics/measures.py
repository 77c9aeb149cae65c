"""One number a run: what a training taught, how steadily, and what it cost.

Trained facts are those that documents tell; controls those that none tells and the base model
knows. Each measure is NaN where a run cannot say.

Sources: Toneva et al. 2019 (forgetting events); Mousavi, Alghisi, Riccardi 2026, arXiv 2601.03858
(loss against knowledge).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float

from kcircuits.analysis.dynamics.events import fact_events
from kcircuits.analysis.dynamics.ood import ood_average
from kcircuits.analysis.dynamics.series import (
    ProbeSeries,
    fact_known,
    knowledge_curve,
    probe_halves,
    select_facts,
)
from kcircuits.analysis.dynamics.strata import trained_facts
from kcircuits.analysis.dynamics.trend import divergence, nonmonotonicity

# A drop of a probe's log-probability that is no small wobble, in nats.
DROP = 0.5
Measure = Callable[[ProbeSeries], float]


def trained_part(series: ProbeSeries) -> ProbeSeries:
    """The run seen through the facts that documents tell; all where none is marked."""
    told = trained_facts(series)
    return select_facts(series, told) if told.any() else series


def dropped_probes(series: ProbeSeries) -> float:
    """Share of cloze probes whose answer loses more than ``DROP`` nats on some step."""
    rows = series.logprob[np.isfinite(series.logprob).all(axis=1)]
    if not len(rows) or rows.shape[1] < 2:
        return np.nan
    return float((np.diff(rows, axis=1) < -DROP).any(axis=1).mean())


def forgotten_share(is_known: Bool[np.ndarray, "fact epoch"]) -> float:
    """Share of the facts known at any epoch but the last that are forgotten at least once."""
    is_candidate = np.asarray(is_known[:, :-1].any(axis=1))
    return _share(fact_events(is_known).n_forgotten > 0, is_candidate)


def forgetting_rate(is_known: Bool[np.ndarray, "fact epoch"]) -> float:
    """Share of known facts that are no longer known an epoch later, over all steps."""
    before, after = is_known[:, :-1], is_known[:, 1:]
    return _share(~after, before)


def relearned_share(is_known: Bool[np.ndarray, "fact epoch"]) -> float:
    """Share of the facts forgotten before the last epoch that are known again later."""
    if is_known.shape[1] < 2:
        return np.nan
    is_candidate = fact_events(is_known[:, :-1]).n_forgotten > 0
    return _share(fact_events(is_known).n_relearned > 0, is_candidate)


def controls_lost(series: ProbeSeries) -> float:
    """Share of the controls known before training that are not known at its end."""
    is_control = np.array([strata.get("split") == "control" for strata in series.strata])
    is_known = fact_known(series)[is_control]
    return _share(~is_known[:, -1], is_known[:, 0]) if len(is_known) else np.nan


def ood_changes(series: ProbeSeries) -> Float[np.ndarray, " epoch"]:
    """Mean accuracy out of domain at each epoch minus that before training."""
    ood = ood_average(series.skills, len(series.epochs))
    return ood - ood[:1]


def ood_early(series: ProbeSeries) -> float:
    """Share of the largest fall out of domain that is there after one epoch; NaN without a fall."""
    changes = ood_changes(series)
    lowest = changes.min()
    return float(changes[1] / lowest) if lowest < 0 else np.nan


def _share(hits: Bool[np.ndarray, "*n"], among: Bool[np.ndarray, "*n"]) -> float:
    return float(hits[among].mean()) if among.any() else np.nan


def _first(changes: Float[np.ndarray, " epoch"]) -> float:
    return float(changes[1]) if len(changes) > 1 else np.nan


def _last(values: Float[np.ndarray, " n"]) -> float:
    return float(values[-1]) if len(values) else np.nan


def _of_trained(measure: Callable[[Bool[np.ndarray, "fact epoch"]], float]) -> Measure:
    return lambda series: measure(fact_known(trained_part(series)))


def _wobble(series: ProbeSeries, half: int) -> float:
    told = trained_part(series)
    return float(nonmonotonicity(knowledge_curve(told, probe_halves(told)[half])))


def _loss_fall(series: ProbeSeries) -> float:
    loss = series.loss[np.isfinite(series.loss)]
    return float(loss[0] - loss[-1]) if len(loss) > 1 else np.nan


def _diverging(series: ProbeSeries) -> float:
    return divergence(series.loss, knowledge_curve(trained_part(series))).share


def _regret(series: ProbeSeries) -> float:
    return divergence(series.loss, knowledge_curve(trained_part(series))).regret


MEASURES: Mapping[str, tuple[str, Measure]] = MappingProxyType(
    {
        "loss_fall": ("fall of the loss, first to last epoch (nats per token)", _loss_fall),
        "known_last": (
            "trained facts known at the end",
            lambda series: _last(knowledge_curve(trained_part(series))),
        ),
        "known_best": (
            "trained facts known at the best epoch",
            lambda series: float(knowledge_curve(trained_part(series)).max()),
        ),
        "diverging": ("steps on which the loss falls and knowledge does not rise", _diverging),
        "regret": ("best knowledge minus knowledge at the lowest loss", _regret),
        "dropped_probes": (
            f"probes of trained facts that lose more than {DROP:g} nat on some step",
            lambda series: dropped_probes(trained_part(series)),
        ),
        "forgotten": (
            "facts forgotten at least once, of those known",
            _of_trained(forgotten_share),
        ),
        "forgetting_rate": ("known facts forgotten per epoch", _of_trained(forgetting_rate)),
        "relearned": ("forgotten facts known again later", _of_trained(relearned_share)),
        "wobble_a": ("non-monotonicity, first half of the probes", lambda s: _wobble(s, 0)),
        "wobble_b": ("non-monotonicity, second half of the probes", lambda s: _wobble(s, 1)),
        "controls_lost": ("known controls lost at the end", controls_lost),
        "ood_first": ("OOD accuracy after one epoch, change", lambda s: _first(ood_changes(s))),
        "ood_last": ("OOD accuracy at the end, change", lambda s: _last(ood_changes(s))),
        "ood_early": ("share of the largest OOD fall that one epoch brings", ood_early),
    }
)
"""Name -> what it says, and how it is computed."""
