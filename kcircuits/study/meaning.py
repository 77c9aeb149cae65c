"""What the scores in a run's cells say."""

from kcircuits.core.provenance import Provenance
from kcircuits.core.score_meaning import GATES, ScoreMeaning
from kcircuits.discovery import METHODS
from kcircuits.engine.metrics import DEFAULT_METRIC, METRICS


def meaning_of(provenance: Provenance) -> ScoreMeaning:
    """What scores of that provenance say: changes of a metric, or probabilities of gates."""
    method = METHODS.get(provenance.method)
    if method is not None and method.train is not None:
        return GATES
    metric = METRICS.get(provenance.params.get("metric", DEFAULT_METRIC))
    return ScoreMeaning(
        unit="units of the metric" if metric is None else metric.unit,
        helps="above 0" if provenance.is_importance else "below 0",
    )


def rows_are(provenance: Provenance) -> str:
    """What the rows of a cell's scores are: prompts, or parts of the prompts."""
    folds = provenance.params.get("n_folds")
    return "discovery prompts" if folds is None else "folds of the discovery prompts"
