"""Functions timed by turns in one process, and the plain transformers model beside ours."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import kcircuits as kc

N_FACTS, N_TOKENS, N_STEPS = 16, 12, 5


def random_batch(n_shared: int, d_vocab: int) -> kc.PromptBatch:
    """16 prompts of 12 tokens whose clean and corrupt versions share ``n_shared`` tokens."""
    generator = np.random.default_rng(n_shared)
    clean = generator.integers(100, d_vocab - 100, (N_FACTS, N_TOKENS))
    corrupt = generator.integers(100, d_vocab - 100, (N_FACTS, N_TOKENS))
    corrupt[:, :n_shared] = clean[:, :n_shared]
    return kc.PromptBatch.from_tokens(
        clean, corrupt, generator.integers(100, d_vocab - 100, (N_FACTS, 2))
    )


def alternate(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each function, measured by turns after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            function()
            seconds[name].append(time.process_time() - start)
    return seconds


def ratios(seconds: dict[str, list[float]], above: str, below: str) -> list[float]:
    """Ratio of two functions in each repeat."""
    return [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]


class Plain:
    """The plain transformers model."""

    def __init__(self, path: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.model.requires_grad_(False)

    def forward(self, batch: kc.PromptBatch) -> None:
        """Logits at all positions."""
        with torch.no_grad():
            self.model(torch.as_tensor(batch.clean))

    def forward_backward(self, batch: kc.PromptBatch) -> None:
        """Gradient of the logit difference at the embeddings, through all activations."""
        clean = torch.as_tensor(batch.clean)
        pair = torch.as_tensor(np.stack([batch.target, batch.foil], 1))
        inputs = self.model.get_input_embeddings()(clean).requires_grad_()
        chosen = self.model(inputs_embeds=inputs).logits[:, -1].gather(1, pair)
        torch.autograd.grad((chosen[:, 0] - chosen[:, 1]).sum(), inputs)

    def floor(self, batch: kc.PromptBatch) -> None:
        """What an attribution by integrated gradients cannot do without."""
        self.forward(batch)
        self.forward(batch)
        for _ in range(N_STEPS):
            self.forward_backward(batch)
