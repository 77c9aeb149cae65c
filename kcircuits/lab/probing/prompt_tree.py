"""Logits of many texts in few forward passes: what texts begin with in common is computed once.

Texts in the order of their tokens form a tree, each node a token after those above it. One forward
pass takes the nodes of a tree as one row, in which a node sees itself and those above it and has
their number as its position: the same arithmetic as for each text alone, to rounding. Logits are
computed at what is read alone. (Tree attention, as in speculative decoding: Miao et al. 2023,
arXiv:2305.09781, section 4.)

Models that cannot be told what sees what (other families, other kinds of attention, texts beyond a
sliding window) read each text by itself, those of equal length together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kcircuits.lab.training.undisturbed import device_of
from kcircuits.models.families import FAMILIES

Tokens = tuple[int, ...]

N_NODES = 256
"""Nodes of a tree; of 64 to 1,024 the fastest for SmolLM2 on one CPU core."""
_MASKED_ATTENTION = ("eager", "sdpa")


@dataclass(frozen=True, kw_only=True)
class PromptTree:
    """Texts whose common beginnings are kept once.

    Attributes:
        texts: Which texts, by their place.
        ids: Token of each node; a node comes after those above it.
        depth: How many nodes stand above each.
        sees: Which nodes (second axis) each one sees.
        nodes: Of each text the node of each of its tokens.
    """

    texts: tuple[int, ...]
    ids: Int[np.ndarray, " node"]
    depth: Int[np.ndarray, " node"]
    sees: Bool[np.ndarray, "node node"]
    nodes: tuple[tuple[int, ...], ...]


def read_logits(
    model: Any,
    texts: Sequence[Tokens],
    reads: Sequence[Sequence[int]],
    *,
    max_texts: int = 128,
) -> Iterator[tuple[int, Float[Tensor, "read d_vocab"]]]:
    """The logits that a model gives at some positions of each text.

    Args:
        model: A transformers model in evaluation mode (see ``undisturbed``).
        texts: Token ids, at least one each.
        reads: Of each text the positions to read, at least one.
        max_texts: Texts per forward pass at most.

    Yields:
        The place of a text and its logits, in the order of computation; each text once.
    """
    if not _sees_as_told(model, max(map(len, texts), default=0)):
        yield from _each_alone(model, texts, reads, max_texts)
        return
    for tree in trees(texts, max_texts=max_texts):
        places = [
            [nodes[pos] for pos in reads[text]]
            for text, nodes in zip(tree.texts, tree.nodes, strict=True)
        ]
        kept = sorted({node for row in places for node in row})
        logits = dict(zip(kept, _forward(model, tree, kept), strict=True))
        for text, row in zip(tree.texts, places, strict=True):
            yield text, torch.stack([logits[node] for node in row])


def trees(
    texts: Sequence[Tokens], *, max_texts: int, n_nodes: int = N_NODES
) -> Iterator[PromptTree]:
    """Texts as trees, each of them in one.

    A tree ends before a text with which it would hold more than ``n_nodes`` nodes, or half as many
    again as that text has tokens where this is more.
    """
    order = sorted(range(len(texts)), key=lambda i: texts[i])
    start, size, before = 0, 0, ()
    for place, i in enumerate(order):
        n_new = len(texts[i]) - _n_common(before, texts[i])
        is_full = size + n_new > max(n_nodes, 3 * len(texts[i]) // 2)
        if place > start and (is_full or place - start == max_texts):
            yield _grow(texts, order[start:place])
            start, size, n_new = place, 0, len(texts[i])
        size, before = size + n_new, texts[i]
    if order:
        yield _grow(texts, order[start:])


def _grow(texts: Sequence[Tokens], chosen: Sequence[int]) -> PromptTree:
    ids: list[int] = []
    depth: list[int] = []
    nodes: list[tuple[int, ...]] = []
    path: tuple[int, ...] = ()
    before: Tokens = ()
    for i in chosen:
        n_common = _n_common(before, texts[i])
        new = texts[i][n_common:]
        path = path[:n_common] + tuple(range(len(ids), len(ids) + len(new)))
        depth += range(n_common, len(texts[i]))
        ids += new
        nodes.append(path)
        before = texts[i]
    sees = np.zeros((len(ids), len(ids)), dtype=bool)
    for path in nodes:
        for last, node in enumerate(path):
            sees[node, list(path[: last + 1])] = True
    return PromptTree(
        texts=tuple(chosen),
        ids=np.array(ids),
        depth=np.array(depth),
        sees=sees,
        nodes=tuple(nodes),
    )


def _n_common(a: Tokens, b: Tokens) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _forward(model: Any, tree: PromptTree, kept: Sequence[int]) -> Float[Tensor, "read d_vocab"]:
    device = device_of(model)
    mask = torch.from_numpy(tree.sees)[None, None].to(device)
    if model.config._attn_implementation == "eager":  # which adds the mask to its scores
        dtype = next(model.parameters()).dtype
        zeros = torch.zeros(mask.shape, dtype=dtype, device=device)
        mask = zeros.masked_fill(~mask, torch.finfo(dtype).min)
    return model(
        input_ids=torch.from_numpy(tree.ids)[None].to(device),
        position_ids=torch.from_numpy(tree.depth)[None].to(device),
        attention_mask=mask,
        use_cache=False,
        logits_to_keep=torch.tensor(kept, device=device),
    ).logits[0]


def _each_alone(
    model: Any, texts: Sequence[Tokens], reads: Sequence[Sequence[int]], max_texts: int
) -> Iterator[tuple[int, Float[Tensor, "read d_vocab"]]]:
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for length, group in groupby(order, key=lambda i: len(texts[i])):
        same = list(group)
        n_rows = min(max_texts, max(1, N_NODES // length))
        for start in range(0, len(same), n_rows):
            mine = same[start : start + n_rows]
            first = min(min(reads[i]) for i in mine)
            ids = torch.tensor([texts[i] for i in mine], device=device_of(model))
            keep: Mapping[str, int] = {}
            if model.config.model_type in FAMILIES:
                keep = {"logits_to_keep": length - first}
            logits = model(input_ids=ids, use_cache=False, **keep).logits[:, first - length :]
            for i, row in zip(mine, logits, strict=True):
                yield i, row[[pos - first for pos in reads[i]]]


def _sees_as_told(model: Any, longest: int) -> bool:
    """Whether the model takes a mask that says which token sees which."""
    config = model.config
    window = getattr(config, "sliding_window", None)
    is_in_window = window is None or longest <= window
    is_ours = config.model_type in FAMILIES and config._attn_implementation in _MASKED_ATTENTION
    return is_ours and is_in_window
