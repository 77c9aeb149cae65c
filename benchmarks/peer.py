"""Runs the EAP-IG library from a checkout, one graph per fact, on token ids.

The library expects strings, a tokenizer and a CUDA device; the token ids and the CPU are handed
to it here. Nothing of it is part of this project.
"""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kcircuits as kc


def peer_scores(
    checkout: Path, hooked: Any, batch: kc.PromptBatch, n_steps: int
) -> Callable[[], np.ndarray]:
    """A function that computes [fact, n_forward, n_backward] with the library."""
    sys.path.insert(0, str(checkout / "src"))
    for name in ("pygraphviz", "matplotlib", "matplotlib.cm"):
        sys.modules.setdefault(name, types.ModuleType(name))
    import eap.attribute
    import eap.utils
    from eap.graph import Graph

    zeros = torch.zeros

    def zeros_here(*shape: Any, device: Any = None, **options: Any) -> torch.Tensor:
        return zeros(*shape, device="cpu" if device == "cuda" else device, **options)

    def tokens(_: Any, inputs: torch.Tensor, __: Any = None) -> tuple[Any, ...]:
        lengths = torch.full((len(inputs),), inputs.shape[1])
        return inputs, torch.ones_like(inputs), lengths, inputs.shape[1]

    def difference(logits: torch.Tensor, _: Any, __: Any, pair: torch.Tensor) -> torch.Tensor:
        chosen = logits[:, -1].gather(1, pair)
        return (chosen[:, 0] - chosen[:, 1]).mean()

    eap.attribute.tokenize_plus = tokens
    hooked.requires_grad_(False)
    hooked.set_use_attn_result(True)
    hooked.set_use_split_qkv_input(True)
    hooked.set_use_hook_mlp_in(True)
    if hooked.cfg.n_key_value_heads is not None:
        hooked.set_ungroup_grouped_query_attention(True)
    clean, corrupt = torch.as_tensor(batch.clean), torch.as_tensor(batch.corrupt)
    pair = torch.as_tensor(np.stack([batch.target, batch.foil], 1))

    def run() -> np.ndarray:
        scores = []
        torch.zeros = zeros_here
        try:
            for i in range(len(clean)):
                graph = Graph.from_model(hooked)
                loader = [(clean[i : i + 1], corrupt[i : i + 1], pair[i : i + 1])]
                eap.attribute.attribute(
                    hooked, graph, loader, difference, "EAP-IG-inputs", ig_steps=n_steps, quiet=True
                )
                scores.append(graph.scores.detach().cpu().numpy().copy())
        finally:
            torch.zeros = zeros
        return np.stack(scores)

    return run
