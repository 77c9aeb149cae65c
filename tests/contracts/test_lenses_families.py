"""Lenses on every family: contributions add up to transformers' logits, attention is its attention.

The oracles are transformers alone and the caches of HookedTransformer, one prompt at a time and
without padding.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.core.lenses import GROUPS, position_groups
from kcircuits.models.backend import set_rotary_tables
from kcircuits.models.reference import double_throughout

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def loaded(variant: str, tiny_folder: MakeFolder) -> kc.Model:
    """Each variant in float64, its rotary angles too."""
    model = kc.load_model(tiny_folder(variant), dtype=torch.float64)
    set_rotary_tables(model.hooked, torch.float64)
    return model


@pytest.fixture
def known_places(batch: kc.PromptBatch) -> kc.PromptBatch:
    """The prompts with a subject at their third and fourth token."""
    subject = np.zeros(batch.clean.shape, dtype=bool)
    subject[:, 2:4] = True
    return replace(batch, subject_mask=subject, text_mask=np.ones_like(subject))


def plain_run(plain: Any, tokens: Any) -> tuple[Any, list[Any]]:
    """Logits after the last token, and each layer's attention from there [head, key]."""
    plain.set_attn_implementation("eager")
    with torch.no_grad(), double_throughout(torch.float64):
        out = plain(torch.as_tensor(tokens)[None], output_attentions=True, use_cache=False)
    return out.logits[0, -1].numpy(), [layer[0, :, -1].numpy() for layer in out.attentions]


def uncapped(logits: Any, plain: Any) -> Any:
    cap = getattr(plain.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * np.arctanh(logits / cap)


def test_contributions_add_up_to_the_logits_of_transformers(
    variant: str,
    loaded: kc.Model,
    known_places: kc.PromptBatch,
    tiny_folder: MakeFolder,
    plain_model: Callable[..., Any],
) -> None:
    batch, plain = known_places, plain_model(tiny_folder(variant))
    found = kc.lenses(loaded, batch)
    groups = position_groups(batch)
    for i, n in enumerate(batch.lengths):
        logits, patterns = plain_run(plain, batch.clean[i, :n])
        before = uncapped(logits, plain)
        (target,), (foil,) = batch.targets[i], batch.foils[i]
        sums = found.total[i]
        assert sums[0] + found.mean_logit[i] == pytest.approx(before[target], rel=1e-9, abs=1e-9)
        assert found.mean_logit[i] == pytest.approx(before.mean(), rel=1e-9, abs=1e-9)
        assert sums[1] == pytest.approx(before[target] - before[foil], rel=1e-9, abs=1e-9)
        for layer, pattern in enumerate(patterns):
            for group in range(len(GROUPS)):
                mass = pattern[:, groups[i, :n] == group].sum(1)
                np.testing.assert_allclose(found.attention[i, layer, :, group], mass, atol=1e-7)
        logprobs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        assert found.logprob[i, -1] == pytest.approx(logprobs[target], rel=1e-9)
        assert found.rank[i, -1] == 1 + (logits > logits[target]).sum()
    np.testing.assert_allclose(found.attention.sum(-1), 1)
    assert np.abs(found.heads).max() > 1e-3


def test_the_last_depth_is_what_probing_says(loaded: kc.Model, batch: kc.PromptBatch) -> None:
    found = kc.lenses(loaded, batch)
    for row, logprob, rank in zip(
        kc.probe(loaded, batch), found.logprob[:, -1], found.rank[:, -1], strict=True
    ):
        assert logprob == pytest.approx(row["logprob"], rel=1e-5)
        assert rank == row["rank"]
    np.testing.assert_allclose(found.prob[:, -1], [r["prob"] for r in kc.probe(loaded, batch)],
                               rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "olmo2-biases"])
def test_bfloat16_adds_up_within_its_rounding(
    family: str, known_places: kc.PromptBatch, tiny_folder: MakeFolder
) -> None:
    """Contributions are float32 sums of what the bfloat16 run has written."""
    coarse = kc.load_model(tiny_folder(family), dtype=torch.bfloat16)
    fine = kc.load_model(tiny_folder(family), dtype=torch.float32)
    found, wanted = kc.lenses(coarse, known_places), kc.lenses(fine, known_places)
    assert found.heads.dtype == np.float32
    size = np.abs(wanted.total).max() + np.abs(wanted.mean_logit).max()
    assert np.abs(found.total - wanted.total).max() < 0.05 * size
    assert np.abs(found.heads - wanted.heads).max() < 0.1 * np.abs(wanted.heads).max()


def test_numbers_depend_on_neither_chunks_nor_padding(
    loaded: kc.Model, known_places: kc.PromptBatch
) -> None:
    whole, single = kc.lenses(loaded, known_places), kc.lenses(loaded, known_places, memory=1)
    for name in ("heads", "mlps", "embedding", "constant", "attention", "logprob", "rank"):
        np.testing.assert_allclose(
            getattr(whole, name), getattr(single, name), rtol=1e-9, atol=1e-12, err_msg=name
        )
    alone = kc.lenses(loaded, known_places.rows([1]))
    np.testing.assert_allclose(alone.heads[0], whole.heads[1], rtol=1e-9, atol=1e-12)


def test_contributions_are_those_of_hooked_transformer(
    variant: str, loaded: kc.Model, known_places: kc.PromptBatch
) -> None:
    """Pattern times values times W_O along the answer's direction, head by head and key by key."""
    hooked, batch = loaded.hooked, known_places
    if not hasattr(hooked, "run_with_cache") or type(hooked).__name__ != "HookedTransformer":
        pytest.skip("the model is no HookedTransformer")
    found, groups = kc.lenses(loaded, batch), position_groups(batch)
    unembed, norm = hooked.unembed.W_U.detach(), loaded.weights.final_norm
    for i, n in enumerate(batch.lengths):
        with torch.no_grad():
            _, cache = hooked.run_with_cache(torch.as_tensor(batch.clean[i, :n])[None])
        (target,), (foil,) = batch.targets[i], batch.foils[i]
        columns = [unembed[:, target] - unembed.mean(1), unembed[:, target] - unembed[:, foil]]
        scale = cache["ln_final.hook_scale"][0, -1]
        for layer, block in enumerate(hooked.blocks):
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0, :, -1]
            v = cache[f"blocks.{layer}.attn.hook_v"][0]
            v = v.repeat_interleave(pattern.shape[0] // v.shape[1], 1)
            attention = loaded.weights.attention[layer]
            if attention.clip is not None:
                v = v.clamp(-attention.clip, attention.clip)
            written = torch.einsum("hk,khe,hed->hkd", pattern, v, block.attn.W_O.detach())
            post = attention.post_norm
            if post is not None:
                whole = written.sum((0, 1)) + block.attn.b_O.detach()
                written = written * post.gain / (whole.square().mean() + post.eps).sqrt()
            if norm.is_centred:
                written = written - written.mean(-1, keepdim=True)
            for effect, column in enumerate(columns):
                by_key = (written / scale * norm.gain) @ column
                for group in range(len(GROUPS)):
                    mine = torch.tensor(groups[i, :n] == group)
                    np.testing.assert_allclose(
                        found.heads[i, effect, layer, :, group],
                        by_key[:, mine].sum(1),
                        rtol=1e-7,
                        atol=1e-9,
                    )
