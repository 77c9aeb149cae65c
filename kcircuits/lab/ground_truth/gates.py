"""Logic gates: small circuits of which it is known which methods must fail, and why.

Two heads of the first layer fetch a signal each (1 in clean prompts, 0 in corrupt ones) to the
last position, where m0 computes a gate of them; m0's output is the logit of the target.

- ``and``: relu(a + b - 1). Either signal alone ends it; every method sees both.
- ``or``: min(1, a + b), a backup. Corrupting one signal does nothing, and the gradient at the
  clean run is 0; only methods that look between clean and corrupt see the signals. Either of the
  two is a circuit, so the one given here, with both, is not minimal.
- ``saturation``: min(1, 4 a), with b unused: corrupting a ends it, but its gradient is 0.
- ``slope``: a, plus 3 |b - 1/2|: corrupting b does nothing, but its gradient is three times that
  of a. b is *not* in the circuit.

Source: for noising and denoising of AND and OR, Heimersheim and Nanda 2024, arXiv 2404.15255; for
zero gradients, Hanna, Pezzelle, Belinkov 2024, arXiv 2403.17806.
"""

from collections.abc import Sequence
from functools import partial

import torch

from kcircuits.core.batch import PromptBatch
from kcircuits.core.topology import Topology
from kcircuits.lab.ground_truth.draft import Draft
from kcircuits.lab.ground_truth.ground_truth import (
    BY_CLEAN_GRADIENT,
    BY_PATCHING,
    BY_PATH,
    GroundTruth,
    KnownCircuit,
    circuit_of,
)

N_LAYERS, N_HEADS, N_POS = 2, 3, 3
OFF, ON, LAST, TARGET, FOIL = range(5)  # tokens: the two signals, the place of the gate, answers
D_VOCAB = 5
SHARPNESS, GAIN = 40.0, 8.0  # e^-40 of the other signal is lost to rounding
HEADS = ("a0.h0", "a0.h1")

# Neurons of m0: weight of a, weight of b, bias, output.
Neuron = tuple[float, float, float, float]


def build(
    seed: int, dtype: torch.dtype = torch.float64, *, neurons: Sequence[Neuron], n_signals: int
) -> KnownCircuit:
    """A gate; the seed draws its distractors.

    Args:
        seed: Of the distractors.
        dtype: Of the weights.
        neurons: The neurons of m0.
        n_signals: How many of the two signals matter.
    """
    topology = Topology(n_layers=N_LAYERS, n_heads=N_HEADS)
    blocks = {"signal": 1, "position": N_POS, "a": 1, "b": 1, "gate": 1, "bias": 1, "junk": 6}
    draft = Draft(topology, blocks, d_head=4, d_mlp=10, n_ctx=N_POS, d_vocab=D_VOCAB, dtype=dtype)
    one = torch.ones(1, dtype=dtype)
    signal = torch.zeros(D_VOCAB, 1, dtype=dtype)
    signal[ON] = 1.0
    draft.embed("signal", signal)
    draft.embed_positions("position", torch.eye(N_POS, dtype=dtype))
    draft.embed_positions("bias", torch.ones(N_POS, 1, dtype=dtype))
    for head, block in enumerate("ab"):
        draft.constant_query(0, head, SHARPNESS * one)
        draft.read(0, head, "k", "position", torch.eye(N_POS, dtype=dtype)[head : head + 1])
        draft.read(0, head, "v", "signal", one[None])
        draft.write(0, head, block, one[None])
    for of_a, of_b, bias, output in neurons:
        draft.neuron(0, {"a": of_a * one, "b": of_b * one}, bias, {"gate": output * one})
    # The target's logit is the gate's output, the foil's is half of what the gate can give.
    reads = torch.zeros(D_VOCAB, 2, dtype=dtype)
    reads[TARGET, 0], reads[FOIL, 1] = GAIN, GAIN / 2
    draft.unembed("gate", reads[:, :1])
    draft.unembed("bias", reads[:, 1:])
    draft.distract("junk", torch.Generator().manual_seed(seed))
    used = HEADS[:n_signals]
    edges = [f"input->{head}<v>" for head in used] + [f"{head}->m0" for head in used]
    return KnownCircuit(
        weights=draft.weights,
        batch=PromptBatch.from_tokens([[ON, ON, LAST]], [[OFF, OFF, LAST]], [[TARGET, FOIL]]),
        circuit=circuit_of(topology, [*edges, "m0->logits"]),
    )


AND = GroundTruth(
    name="and",
    build=partial(build, neurons=[(1, 1, -1, 1)], n_signals=2),
    recovered_by=BY_CLEAN_GRADIENT | BY_PATH | BY_PATCHING,
    summary="both signals are needed",
)
OR = GroundTruth(
    name="or",
    # From 1/8 (neither) to 1: a corrupt run at the very kink would have no gradient either.
    build=partial(build, neurons=[(1, 1, 0.125, 1), (1, 1, -0.875, -1)], n_signals=2),
    is_minimal=False,
    recovered_by=BY_PATH,
    summary="one signal is enough: each backs up the other",
)
SATURATION = GroundTruth(
    name="saturation",
    build=partial(build, neurons=[(4, 0, 0.125, 1), (4, 0, -0.875, -1)], n_signals=1),
    recovered_by=BY_PATH | BY_PATCHING,
    summary="the signal is four times as strong as needed",
)
SLOPE = GroundTruth(
    name="slope",
    build=partial(
        build,
        # The last one takes away what a and b both give at 0; a is read far from its kink.
        neurons=[(1, 0, 1, 1), (0, 1, -0.5, 3), (0, -1, 0.5, 3), (0, 0, 1, -2.5)],
        n_signals=1,
    ),
    # Integrated over the path the two halves of the slope cancel, but for one of 5 steps; over
    # activations they cancel only for the group of senders that is on its way.
    recovered_by=(BY_PATCHING | BY_PATH) - {"eap-ig-activations"},
    summary="beside the signal one that has a slope but no effect",
)
