"""Induction: after ... A B ... A comes B. Two heads that compose by keys.

A previous-token head (a0.h0) writes each position's predecessor beside it; positions are one-hot,
and position p asks for p - 1, so its pattern depends on no token. The induction head (a1.h0) asks
with its own token for the position whose predecessor is that token, and copies the token it finds
there to the logits. Five edges.

All other heads and the MLPs have random weights, read everything and write where the circuit does
not read. Clean and corrupt prompts differ in every token but the start, so that each edge, when
corrupted by itself, leads to another answer.

Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Olsson et al. 2022,
arXiv 2209.11895.
"""

import numpy as np
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
from kcircuits.models.weights import TransformerWeights

N_LAYERS, N_HEADS = 2, 3
D_VOCAB, N_POS = 11, 8
START = 0  # the first token of every prompt: the first position has no predecessor
# Attention scores where a head looks; elsewhere they are 0. One other position gets e^-8 = 3e-4.
SHARPNESS = 8.0
GAIN = 8.0  # logits of the answer; the others' are 0
N_PROMPTS = 6
EDGES = (
    "input->a0.h0<v>",
    "a0.h0->a1.h0<k>",
    "input->a1.h0<q>",
    "input->a1.h0<v>",
    "a1.h0->logits",
)


def build(seed: int, dtype: torch.dtype = torch.float64) -> KnownCircuit:
    """The induction model; the seed draws its distractors and its prompts."""
    topology = Topology(n_layers=N_LAYERS, n_heads=N_HEADS)
    return KnownCircuit(
        weights=_weights(topology, torch.Generator().manual_seed(seed), dtype),
        batch=_prompts(np.random.default_rng(seed)),
        circuit=circuit_of(topology, EDGES),
    )


def _weights(
    topology: Topology, generator: torch.Generator, dtype: torch.dtype
) -> TransformerWeights:
    blocks = {
        "token": D_VOCAB,
        "position": N_POS,
        "previous": D_VOCAB,
        "answer": D_VOCAB,
        "junk": 6,
    }
    draft = Draft(
        topology, blocks, d_head=D_VOCAB, d_mlp=12, n_ctx=N_POS, d_vocab=D_VOCAB, dtype=dtype
    )
    token, position = torch.eye(D_VOCAB, dtype=dtype), torch.eye(N_POS, dtype=dtype)
    draft.embed("token", token)
    draft.embed_positions("position", position)
    draft.read(0, 0, "q", "position", SHARPNESS * position.roll(-1, 0))
    draft.read(0, 0, "k", "position", position)
    draft.read(0, 0, "v", "token", token)
    draft.write(0, 0, "previous", token)
    draft.read(1, 0, "q", "token", SHARPNESS * token)
    draft.read(1, 0, "k", "previous", token)
    draft.read(1, 0, "v", "token", token)
    draft.write(1, 0, "answer", token)
    draft.unembed("answer", GAIN * token)
    draft.distract("junk", generator)
    return draft.weights


def _prompts(rng: np.random.Generator) -> PromptBatch:
    """A start, then different tokens, the last of which repeats one; one fact per prompt."""
    rows: list[tuple[np.ndarray, np.ndarray, tuple[int, int]]] = []
    while len(rows) < N_PROMPTS:
        (clean, target), (corrupt, foil) = _prompt(rng), _prompt(rng)
        if target != foil and not (clean == corrupt)[1:].any():
            rows.append((clean, corrupt, (target, foil)))
    clean_rows, corrupt_rows, answers = zip(*rows, strict=True)
    return PromptBatch.from_tokens(np.stack(clean_rows), np.stack(corrupt_rows), answers)


def _prompt(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    tokens = np.concatenate([[START], 1 + rng.permutation(D_VOCAB - 1)[: N_POS - 1]])
    repeated = int(rng.integers(1, N_POS - 2))
    tokens[-1] = tokens[repeated]
    return tokens, int(tokens[repeated + 1])


INDUCTION = GroundTruth(
    name="induction",
    build=build,
    recovered_by=BY_CLEAN_GRADIENT | BY_PATH | BY_PATCHING,
    summary="previous-token head and induction head: after ... A B ... A comes B",
)
