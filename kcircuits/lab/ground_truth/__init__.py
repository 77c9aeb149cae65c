"""Models whose circuits are known, to try methods on: one file a model, one line here each.

``build(seed, dtype)`` of an entry makes the weights, the prompts and the circuit as an edge mask;
``WeightsModel`` makes of the weights what ``kcircuits.attribute`` and its kin ask of a model::

    known = GROUND_TRUTHS["induction"].build(0, torch.float64)
    scores = kc.attribute(WeightsModel(known.weights), known.batch, method="eap")
    kcircuits.evaluation.auroc.edge_auroc(scores.values, known.circuit, scores.topology)
"""

from collections.abc import Mapping
from types import MappingProxyType

from kcircuits.lab.ground_truth.gates import AND, OR, SATURATION, SLOPE
from kcircuits.lab.ground_truth.ground_truth import GroundTruth, KnownCircuit
from kcircuits.lab.ground_truth.induction import INDUCTION
from kcircuits.lab.ground_truth.look_up import LOOK_UP
from kcircuits.lab.ground_truth.model import WeightsModel
from kcircuits.lab.ground_truth.noise import with_noise
from kcircuits.lab.ground_truth.planted import PLANTED

GROUND_TRUTHS: Mapping[str, GroundTruth] = MappingProxyType(
    {
        truth.name: truth
        for truth in (
            PLANTED,
            INDUCTION,
            LOOK_UP,
            AND,
            OR,
            SATURATION,
            SLOPE,
            with_noise(INDUCTION, largest_outside=0.15),
            with_noise(LOOK_UP, largest_outside=0.15),
        )
    }
)

__all__ = ["GROUND_TRUTHS", "GroundTruth", "KnownCircuit", "WeightsModel"]
