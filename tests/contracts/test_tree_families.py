"""Every family reads many texts in one forward pass, as it reads each alone."""

import numpy as np
import torch

from kcircuits.lab.probing import prompt_tree
from kcircuits.lab.probing.prompt_tree import read_logits


def assert_as_alone(model, longest):
    """Texts that begin alike, each read at two places."""
    rng = np.random.default_rng(0)
    texts = [tuple(rng.integers(1, 4, rng.integers(1, longest + 1)).tolist()) for _ in range(30)]
    texts.append(tuple(range(1, longest + 1)))
    reads = [sorted({len(text) // 2, len(text) - 1}) for text in texts]
    with torch.no_grad():
        found = dict(read_logits(model, texts, reads))
        assert sorted(found) == list(range(len(texts)))
        for i, logits in found.items():
            expected = model(input_ids=torch.tensor([texts[i]]), use_cache=False).logits
            # Float64, but eager attention takes its softmax in float32.
            torch.testing.assert_close(logits, expected[0, reads[i]], rtol=1e-6, atol=1e-6)


def test_each_family_takes_what_sees_what(variant, tiny_folder, plain_model, monkeypatch):
    model = plain_model(tiny_folder(variant))
    monkeypatch.setattr(prompt_tree, "_each_alone", None)
    window = getattr(model.config, "sliding_window", None) or 9
    assert_as_alone(model, min(window, 9))


def test_a_text_beyond_the_window_is_read_as_the_model_does(variant, tiny_folder, plain_model):
    model = plain_model(tiny_folder(variant))
    window = getattr(model.config, "sliding_window", None) or 8
    assert_as_alone(model, window + 5 if window < 40 else 13)
