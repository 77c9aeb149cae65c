"""Edge pruning on parts of each fact's prompts.

What attribution gives per prompt, pruning gives per fold: halves of them compare, so the noise of
the method can be measured.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from kcircuits.core.batch import PromptBatch
from kcircuits.core.scores import EdgeScores
from kcircuits.discovery.prune import prune
from kcircuits.errors import UsageError
from kcircuits.models import Model


def prune_folds(
    model: Model, batch: PromptBatch, n_edges: int, *, n_folds: int = 4, **options: Any
) -> EdgeScores:
    """Gates learned on disjoint parts of each fact's discovery prompts, one row for each part.

    All folds are trained side by side, each as a fact of its own, candidates and warm start
    included.

    Args:
        model: From ``load_model``.
        batch: Prompts; those declared for discovery are used.
        n_edges: Wanted number of edges.
        n_folds: Parts; a fact with fewer prompts has one prompt in each.
        options: As in ``prune``.

    Returns:
        Means of the gates [fact and fold, n_forward, n_backward], in [0, 1]; ``prompt_idx`` is the
        fold.
    """
    if n_folds < 1:
        raise UsageError(f"n_folds is {n_folds}; expected at least 1", field="n_folds")
    batch = batch.with_use("discovery")
    fact_idx, fold, place = [], [], {}
    for fact in batch.fact_idx.tolist():
        place[fact] = place.get(fact, -1) + 1
        fact_idx.append(fact)
        fold.append(place[fact] % n_folds)
    pairs = sorted(set(zip(fact_idx, fold, strict=True)))
    names = tuple(f"{batch.fact_ids[fact]} (fold {k})" for fact, k in pairs)
    of_row = [pairs.index(pair) for pair in zip(fact_idx, fold, strict=True)]
    apart = replace(batch, fact_idx=np.array(of_row, dtype=np.int64), fact_ids=names)
    circuits = prune(model, apart, n_edges=n_edges, **options)
    assert circuits.scores is not None
    provenance = circuits.provenance
    return EdgeScores(
        values=circuits.scores,
        topology=circuits.topology,
        fact_ids=batch.fact_ids,
        fact_idx=np.array([fact for fact, _ in pairs], dtype=np.int64),
        prompt_idx=np.array([k for _, k in pairs], dtype=np.int64),
        provenance=replace(provenance, params={**provenance.params, "n_folds": n_folds}),
    )
