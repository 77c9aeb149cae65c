"""Looking up a fact: a subject of two tokens, two relations, and the attribute that is asked for.

A prompt names a subject (first and second name, with a filler before or after), then both
relations in either order, and last a question for one of them. What is computed where:

- a0.h0 moves the first name to the second (a previous-token head, as in ``induction``);
- m0 has a neuron for each pair of names, which writes who that is;
- a1.h0 moves this from wherever m0 wrote it to the relations (its query is constant);
- m1 has a neuron for each conjunction of subject and relation, which writes the attribute;
- a2.h0 goes from the question to the relation that is asked for, and copies the attribute that was
  found there to the logits.

Names are shared between subjects, so neither of the two tells the subject. Eleven edges; all other
heads and neurons have random weights, read everything and write where the circuit does not read.
Clean and corrupt prompts differ in both names, in the subject's place, in the order of the
relations and in the question, so that each edge by itself, when corrupted, leads elsewhere.

Source: the steps are those that Meng et al. 2022, arXiv 2202.05262, and Geva et al. 2023, arXiv
2304.14767, found in language models (enrichment of the subject's last token by MLPs, then
extraction of the attribute by heads); the weights are our own.
"""

from typing import NamedTuple

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

N_LAYERS, N_HEADS = 3, 3
N_NAMES = 3  # first names, and as many second ones
N_SUBJECTS = N_NAMES**2
N_RELATIONS = 2
N_POS = 6
# Tokens, in this order; attributes are as many as subjects.
FIRST, SECOND = 0, N_NAMES
FILLER = 2 * N_NAMES
RELATION = FILLER + 1
QUESTION = RELATION + N_RELATIONS
ATTRIBUTE = QUESTION + N_RELATIONS
D_VOCAB = ATTRIBUTE + N_SUBJECTS
SHARPNESS, GAIN = 8.0, 8.0  # as in the induction model
# A neuron's input is 2 + 2 - 3 = 1 where both of its features are there, below 0 otherwise.
EVIDENCE, THRESHOLD = 2.0, 3.0
N_FACTS, N_PROMPTS = 4, 2
EDGES = (
    "input->a0.h0<v>",
    "input->m0",
    "a0.h0->m0",
    "m0->a1.h0<k>",
    "m0->a1.h0<v>",
    "a1.h0->m1",
    "input->m1",
    "input->a2.h0<q>",
    "input->a2.h0<k>",
    "m1->a2.h0<v>",
    "a2.h0->logits",
)
BLOCKS = {
    "token": D_VOCAB,
    "position": N_POS,
    "first name": N_NAMES,
    "subject": N_SUBJECTS,
    "moved subject": N_SUBJECTS,
    "attribute": N_SUBJECTS,
    "answer": N_SUBJECTS,
    "junk": 6,
}


class Question(NamedTuple):
    """Tokens of a prompt, and the token that answers it."""

    tokens: tuple[int, ...]
    answer: int


def build(seed: int, dtype: torch.dtype = torch.float64) -> KnownCircuit:
    """The look-up model; the seed draws who has which attribute, distractors and prompts."""
    topology = Topology(n_layers=N_LAYERS, n_heads=N_HEADS)
    rng = np.random.default_rng(seed)
    table = _attributes(rng)
    generator = torch.Generator().manual_seed(seed)
    return KnownCircuit(
        weights=_weights(topology, table, generator, dtype),
        batch=_prompts(table, rng),
        circuit=circuit_of(topology, EDGES),
    )


def _attributes(rng: np.random.Generator) -> np.ndarray:
    """Attribute of each subject and relation; no subject has the same attribute twice."""
    first = rng.permutation(N_SUBJECTS)
    return np.stack([first, np.roll(first, 1)], axis=1)


def _weights(
    topology: Topology, table: np.ndarray, generator: torch.Generator, dtype: torch.dtype
) -> TransformerWeights:
    d_mlp = N_RELATIONS * N_SUBJECTS + 4
    draft = Draft(
        topology, BLOCKS, d_head=N_SUBJECTS, d_mlp=d_mlp, n_ctx=N_POS, d_vocab=D_VOCAB, dtype=dtype
    )
    token, position = torch.eye(D_VOCAB, dtype=dtype), torch.eye(N_POS, dtype=dtype)
    name, subject = torch.eye(N_NAMES, dtype=dtype), torch.eye(N_SUBJECTS, dtype=dtype)
    draft.embed("token", token)
    draft.embed_positions("position", position)
    draft.read(0, 0, "q", "position", SHARPNESS * position.roll(-1, 0))
    draft.read(0, 0, "k", "position", position)
    draft.read(0, 0, "v", "token", token[FIRST : FIRST + N_NAMES])
    draft.write(0, 0, "first name", name)
    for who in range(N_SUBJECTS):
        first, second = divmod(who, N_NAMES)
        reads = {
            "first name": EVIDENCE * name[first],
            "token": EVIDENCE * token[SECOND + second],
        }
        draft.neuron(0, reads, -THRESHOLD, {"subject": subject[who]})
    draft.constant_query(1, 0, torch.tensor([SHARPNESS], dtype=dtype))
    draft.read(1, 0, "k", "subject", torch.ones(1, N_SUBJECTS, dtype=dtype))
    draft.read(1, 0, "v", "subject", subject)
    draft.write(1, 0, "moved subject", subject)
    for who, relation in np.ndindex(table.shape):
        reads = {
            "moved subject": EVIDENCE * subject[who],
            "token": EVIDENCE * token[RELATION + relation],
        }
        draft.neuron(1, reads, -THRESHOLD, {"attribute": subject[table[who, relation]]})
    draft.read(2, 0, "q", "token", SHARPNESS * token[QUESTION : QUESTION + N_RELATIONS])
    draft.read(2, 0, "k", "token", token[RELATION : RELATION + N_RELATIONS])
    draft.read(2, 0, "v", "attribute", subject)
    draft.write(2, 0, "answer", subject)
    draft.unembed("answer", GAIN * token[:, ATTRIBUTE:])
    draft.distract("junk", generator)
    return draft.weights


def _prompts(table: np.ndarray, rng: np.random.Generator) -> PromptBatch:
    """Each fact is asked for in both layouts, against a corrupt prompt of the other one."""
    clean, corrupt, answers, fact_idx = [], [], [], []
    for fact, who in enumerate(rng.permutation(N_SUBJECTS)[:N_FACTS]):
        asked = int(rng.integers(N_RELATIONS))
        for layout in range(N_PROMPTS):
            order = int(rng.integers(N_RELATIONS))
            asks = _prompt(table, int(who), asked, layout, order)
            against = _prompt(
                table, _other(table, int(who), asked, rng), 1 - asked, 1 - layout, 1 - order
            )
            clean.append(asks.tokens)
            corrupt.append(against.tokens)
            answers.append((asks.answer, against.answer))
            fact_idx.append(fact)
    return PromptBatch.from_tokens(clean, corrupt, answers, fact_idx=fact_idx)


def _other(table: np.ndarray, who: int, asked: int, rng: np.random.Generator) -> int:
    """A subject that shares neither name, and whose other attribute is not the one asked for."""
    first, second = divmod(who, N_NAMES)
    return int(
        rng.choice(
            [
                other
                for other in range(N_SUBJECTS)
                if other // N_NAMES != first
                and other % N_NAMES != second
                and table[other, 1 - asked] != table[who, asked]
            ]
        )
    )


def _prompt(table: np.ndarray, who: int, asked: int, layout: int, order: int) -> Question:
    """A prompt: the subject first or second (layout), relation ``order`` before the other."""
    first, second = divmod(who, N_NAMES)
    names = (FIRST + first, SECOND + second)
    opening = (*names, FILLER) if layout == 0 else (FILLER, *names)
    relations = (RELATION + order, RELATION + 1 - order)
    answer = ATTRIBUTE + int(table[who, asked])
    return Question((*opening, *relations, QUESTION + asked), answer)


LOOK_UP = GroundTruth(
    name="look-up",
    build=build,
    recovered_by=BY_CLEAN_GRADIENT | BY_PATH | BY_PATCHING,
    summary="subject of two tokens and relation -> attribute: three heads and two MLPs",
)
