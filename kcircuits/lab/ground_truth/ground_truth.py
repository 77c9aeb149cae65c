"""What a ground truth is: a model whose circuit is known because it was written down first."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool

from kcircuits.core.batch import PromptBatch
from kcircuits.core.topology import Topology
from kcircuits.models.weights import TransformerWeights

# (seed, dtype of the weights) -> model, prompts and circuit
Build = Callable[[int, torch.dtype], "KnownCircuit"]

# Methods that multiply a difference of activations by a gradient: at the clean run alone, and at
# other runs between clean and corrupt as well.
BY_CLEAN_GRADIENT = frozenset({"eap", "relp", "gim"})
BY_PATH = frozenset({"eap-ig-inputs", "eap-ig-activations", "clean-corrupted"})
BY_PATCHING = frozenset({"exact"})


@dataclass(frozen=True, kw_only=True)
class KnownCircuit:
    """A model, prompts that it answers, and the circuit that answers them.

    On the clean prompts the model's first choice is the target, on the corrupt ones the foil.

    Attributes:
        weights: The model.
        batch: Prompts; one circuit serves all of its facts.
        circuit: True at the edges of the circuit.
    """

    weights: TransformerWeights
    batch: PromptBatch
    circuit: Bool[np.ndarray, "n_forward n_backward"]

    @property
    def n_edges(self) -> int:
        """Number of edges of the circuit."""
        return int(self.circuit.sum())


def circuit_of(
    topology: Topology, edges: Iterable[str]
) -> Bool[np.ndarray, "n_forward n_backward"]:
    """The mask of the named edges; UsageError for one that does not exist."""
    mask = np.zeros_like(topology.edge_mask)
    for name in edges:
        mask[topology.edge_index(name)] = True
    return mask


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """A family of known circuits, one for each seed, and what is promised of them.

    Effects are those of corrupting edges, as shares of m(clean) - m(corrupt), m the logit
    difference.

    Attributes:
        name: Name in the registry.
        build: Makes the model, its prompts and its circuit.
        is_minimal: Corrupting any one edge of the circuit alone has an effect.
        largest_outside: Upper bound of the effect of any one edge outside the circuit, and of all
            of them together. 0 means rounding alone.
        recovered_by: Methods whose largest |scores| must be exactly the circuit.
        summary: One line on what the model does.
    """

    name: str
    build: Build
    is_minimal: bool = True
    largest_outside: float = 0.0
    recovered_by: frozenset[str]
    summary: str
