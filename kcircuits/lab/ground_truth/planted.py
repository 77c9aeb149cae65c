"""A random circuit with random weights inside it, and zero weights everywhere else.

Every sender writes into a block of its own; every receiver reads only the blocks of the senders
that the circuit joins it to. So the graph of the computation holds the planted edges and no other.
The target is what the model says to the clean prompt, the foil what it says to the corrupt one.

MLPs are GELU, attention is soft and weights are Gaussian: no gradient vanishes, so every method
that multiplies a difference by a gradient must find exactly the planted edges.
"""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from kcircuits.core.batch import PromptBatch
from kcircuits.core.circuit import prune_dangling
from kcircuits.core.topology import Topology
from kcircuits.engine.forward import run_rows
from kcircuits.lab.ground_truth.draft import Draft
from kcircuits.lab.ground_truth.ground_truth import (
    BY_CLEAN_GRADIENT,
    BY_PATCHING,
    BY_PATH,
    GroundTruth,
    KnownCircuit,
)
from kcircuits.models.weights import ACTIVATIONS, TransformerWeights

D_BLOCK, D_HEAD, D_MLP, D_VOCAB, N_POS = 4, 4, 8, 12, 5
# Smallest m(clean) - m(corrupt) of a prompt: twice the gap below which a fact counts as unknown.
MIN_GAP = 1.0
MAX_DRAWS = 10_000


def build(
    seed: int,
    dtype: torch.dtype = torch.float64,
    *,
    n_layers: int = 3,
    n_heads: int = 2,
    density: float = 0.4,
    n_facts: int = 4,
) -> KnownCircuit:
    """A planted circuit.

    Args:
        seed: Of circuit, weights and prompts.
        dtype: Of the weights.
        n_layers: Depth.
        n_heads: Heads per layer.
        density: Share of edges that are drawn at first; some of them lead nowhere and go.
        n_facts: Number of facts, with one prompt each.
    """
    topology = Topology(n_layers=n_layers, n_heads=n_heads)
    rng = np.random.default_rng(seed)
    circuit = random_circuit(topology, density, rng)
    weights = planted_weights(circuit, topology, torch.Generator().manual_seed(seed), dtype)
    return KnownCircuit(weights=weights, batch=_prompts(weights, n_facts, rng), circuit=circuit)


def random_circuit(
    topology: Topology, density: float, rng: np.random.Generator
) -> Bool[np.ndarray, "n_forward n_backward"]:
    """Random edges, each of which can have an effect.

    An edge leads nowhere unless it lies on a path from the input to the logits, and, into a head,
    unless the head has values to move; queries without keys, and keys without queries, choose
    nothing. Each kind of receiver is among them: queries, keys, values, MLPs and logits.

    Args:
        topology: Names of the axes.
        density: Share of edges that are drawn at first.
        rng: Source of randomness.
    """
    kinds = topology.backward_kinds
    for _ in range(MAX_DRAWS):
        mask = topology.edge_mask & (rng.random(topology.edge_mask.shape) < density)
        while (alive := _alive(mask, topology)).sum() < mask.sum():
            mask = alive
        if {kinds[int(v)] for v in np.flatnonzero(mask.any(0))} == set(kinds):
            return mask
    raise AssertionError(f"no circuit in {MAX_DRAWS} draws at density {density}")


def _alive(mask: Bool[np.ndarray, "n_forward n_backward"], topology: Topology) -> np.ndarray:
    mask = prune_dangling(mask[None], topology)[0]
    for layer in range(topology.n_layers):
        columns = mask[:, topology.attention_columns(layer)]
        q, k, v = np.split(columns, 3, axis=1)  # views
        chooses = q.any(0) & k.any(0) & v.any(0)
        q &= chooses
        k &= chooses
        v &= v.any(0)
    return mask


def planted_weights(
    circuit: Bool[np.ndarray, "n_forward n_backward"],
    topology: Topology,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> TransformerWeights:
    """Random weights inside a circuit, zero outside it."""
    draft = Draft(
        topology,
        dict.fromkeys(topology.forward_names, D_BLOCK),
        d_head=D_HEAD,
        d_mlp=D_MLP,
        n_ctx=0,
        d_vocab=D_VOCAB,
        activation=ACTIVATIONS["gelu"],
        dtype=dtype,
    )

    def random(rows: int, n_senders: int) -> Tensor:
        """Reads of one sender, so that all senders together have about unit variance."""
        size = (D_BLOCK * max(n_senders, 1)) ** -0.5
        return size * torch.randn(rows, D_BLOCK, generator=generator, dtype=dtype)

    draft.embed("input", torch.randn(D_VOCAB, D_BLOCK, generator=generator, dtype=dtype))
    for layer in range(topology.n_layers):
        for head in range(topology.n_heads):
            name = f"a{layer}.h{head}"
            for kind in "qkv":
                senders = _senders(circuit, topology, f"{name}<{kind}>")
                for sender in senders:
                    draft.read(layer, head, kind, sender, random(D_HEAD, len(senders)))
            draft.write(layer, head, name, random(D_HEAD, 1))
        senders = _senders(circuit, topology, f"m{layer}")
        for _ in range(D_MLP):
            reads = {sender: random(1, len(senders))[0] for sender in senders}
            draft.neuron(layer, reads, 0.0, {f"m{layer}": random(1, 1)[0]})
    for sender in _senders(circuit, topology, "logits"):
        draft.unembed(sender, 2.0 * torch.randn(D_VOCAB, D_BLOCK, generator=generator, dtype=dtype))
    return draft.weights


def _senders(
    circuit: Bool[np.ndarray, "n_forward n_backward"], topology: Topology, receiver: str
) -> list[str]:
    column = circuit[:, topology.backward_index(receiver)]
    return [topology.forward_names[int(u)] for u in np.flatnonzero(column)]


def _prompts(weights: TransformerWeights, n_facts: int, rng: np.random.Generator) -> PromptBatch:
    """Random prompts, without the pairs of which the model says nearly the same."""
    kept: list[tuple[np.ndarray, np.ndarray, tuple[int, int]]] = []
    for _ in range(MAX_DRAWS):
        clean = rng.integers(0, D_VOCAB, N_POS)
        corrupt = (clean + rng.integers(1, D_VOCAB, N_POS)) % D_VOCAB
        with torch.no_grad():
            logits = run_rows(weights, torch.as_tensor(np.stack([clean, corrupt])))
        target, foil = (int(i) for i in logits.argmax(-1))
        against = logits[:, target] - logits[:, foil]
        if float(against[0] - against[1]) >= MIN_GAP:
            kept.append((clean, corrupt, (target, foil)))
        if len(kept) == n_facts:
            clean_rows, corrupt_rows, answers = zip(*kept, strict=True)
            return PromptBatch.from_tokens(np.stack(clean_rows), np.stack(corrupt_rows), answers)
    raise AssertionError(f"fewer than {n_facts} prompts of use in {MAX_DRAWS} draws")


PLANTED = GroundTruth(
    name="planted",
    build=build,
    recovered_by=BY_CLEAN_GRADIENT | BY_PATH | BY_PATCHING,
    summary="random weights inside a random circuit, zero outside it",
)
