"""Cells to keep in a store."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest

from kcircuits.core.candidates import candidate_edges
from kcircuits.core.cell import Cell
from kcircuits.core.provenance import Provenance
from kcircuits.core.topology import Topology

TOPOLOGY = Topology(n_layers=2, n_heads=2)


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def make_cell() -> Callable[[str], Cell]:
    """A cell with numbers that its name determines."""

    def make(name: str) -> Cell:
        rng = np.random.default_rng(len(name) + ord(name[-1]))
        shape = (4, *TOPOLOGY.edge_mask.shape)
        scores = (rng.normal(size=shape) * TOPOLOGY.edge_mask).astype(np.float32)
        candidates = candidate_edges(scores, TOPOLOGY, 2)
        return Cell(
            key=hash_of(f"key {name}"),
            checkpoint=hash_of("checkpoint"),
            fact_id=name,
            fact_hash=hash_of(name),
            provenance=Provenance(method="eap", params={"metric": "logit-difference"}),
            topology=TOPOLOGY,
            n_edges=2,
            candidates=candidates,
            prompt_idx=np.arange(4),
            prompt_scores=scores.reshape(4, -1)[:, candidates],
            mean=scores.mean(0),
            is_known=True,
            values={"metric": 0.1 + 0.2, "faithfulness": None},
        )

    return make
