"""Lenses against a slow twin that shares nothing with the engine but the weights.

What positions give a head is what the logits lose, at a frozen final norm, when the head's values
there are taken away.
"""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kcircuits as kc
from kcircuits.core.lenses import GROUPS, LAST, PADDING, RELATION, REST, SUBJECT, position_groups
from kcircuits.errors import FactsError, NonFiniteError, UsageError


@pytest.fixture
def batch(make_answers: Callable[..., kc.PromptBatch]) -> kc.PromptBatch:
    """Prompts of several lengths with subjects, answers of one and of several tokens."""
    made = make_answers()
    return replace(made, text_mask=np.ones(made.clean.shape, dtype=bool))


class Slow:
    """One prompt in the slow model: functions of the logits at its last position."""

    def __init__(self, slow: ModuleType, weights: Any, batch: kc.PromptBatch, prompt: int) -> None:
        self.slow, self.weights = slow, weights
        self.tokens = batch.clean[prompt, : batch.lengths[prompt]].tolist()
        self.target, self.foil = batch.targets[prompt][0], batch.foils[prompt][0]
        self.outputs = slow.run(weights, self.tokens).outputs
        self.streams = [self.outputs["input"][-1]]
        if weights.pos_embed is not None:
            self.streams[0] = self.streams[0] + weights.pos_embed[len(self.tokens) - 1]
        for layer, attention in enumerate(weights.attention):
            names = [n for n in self.outputs if n[1:].split(".")[0] == str(layer)]
            written = sum((self.outputs[n][-1] for n in names), self.streams[-1])
            self.streams.append(written + (0 if attention.b_o is None else attention.b_o))

    def effects(self, logits: Tensor) -> list[float]:
        """Target above the vocabulary's mean, target minus foil."""
        target = logits[self.target]
        return [float(target - logits.mean()), float(target - logits[self.foil])]

    def added(self, written: Tensor) -> list[float]:
        """What a vector in the residual stream adds, at the final norm's scale in this run."""
        norm, at = self.weights.final_norm, self.streams[-1]
        _, deviation = self.slow.spread(at, norm, "gradient")
        centred, _ = self.slow.spread(written, norm, "gradient")
        return self.effects((centred / deviation * norm.gain) @ self.weights.unembed.T)

    def read_off(self, depth: int) -> tuple[float, int]:
        """Log-probability and rank of the target after so many layers."""
        normed = self.slow.norm(self.streams[depth], self.weights.final_norm, "gradient")
        bias = self.weights.b_unembed
        logits = normed @ self.weights.unembed.T + (0 if bias is None else bias)
        n_better = int((logits > logits[self.target]).sum())
        return float(logits.log_softmax(-1)[self.target]), 1 + n_better


def test_senders_and_depths_are_those_of_the_slow_model(
    tiny: Any, slow: ModuleType, batch: kc.PromptBatch
) -> None:
    found, topology = kc.lenses(tiny, batch), tiny.topology
    for prompt in range(len(batch)):
        twin = Slow(slow, tiny.weights, batch, prompt)
        for layer in range(topology.n_layers):
            mlp = twin.added(twin.outputs[f"m{layer}"][-1])
            np.testing.assert_allclose(found.mlps[prompt, :, layer], mlp, rtol=1e-8, atol=1e-10)
            for head in range(topology.n_heads):
                written = twin.added(twin.outputs[f"a{layer}.h{head}"][-1])
                whole = found.heads[prompt, :, layer, head].sum(-1)
                np.testing.assert_allclose(whole, written, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(
            found.embedding[prompt], twin.added(twin.outputs["input"][-1]), rtol=1e-8
        )
        for depth in range(topology.n_layers + 1):
            logprob, rank = twin.read_off(depth)
            assert found.logprob[prompt, depth] == pytest.approx(logprob, rel=1e-6)
            assert found.rank[prompt, depth] == rank
        final = slow.run(tiny.weights, twin.tokens).logits[-1]
        np.testing.assert_allclose(found.total[prompt], twin.effects(final), rtol=1e-8)


@pytest.mark.parametrize("style", ["grouped", "qk-norm"])
def test_a_group_gives_what_its_values_take_away(
    style: str, tiny_of: Callable[..., Any], slow: ModuleType, batch: kc.PromptBatch
) -> None:
    """Without biases, a head whose values read nothing at some positions writes nothing of them."""
    tiny = tiny_of(style)
    found, groups = kc.lenses(tiny, batch), position_groups(batch)
    for prompt in range(len(batch)):
        twin = Slow(slow, tiny.weights, batch, prompt)
        for layer, head, group in np.ndindex(3, 3, len(GROUPS)):
            name = f"a{layer}.h{head}"
            gone = torch.tensor(groups[prompt, : len(twin.tokens)] == group)[:, None]

            def without(_: str, v: str, out: Tensor, name: str = name, gone: Tensor = gone) -> Any:
                return out.masked_fill(gone, 0.0) if v == f"{name}<v>" else out

            left = slow.run(tiny.weights, twin.tokens, edge=without).outputs[name][-1]
            taken = twin.added(twin.outputs[name][-1] - left)
            place = (prompt, slice(None), layer, head, group)
            np.testing.assert_allclose(found.heads[place], taken, rtol=1e-8, atol=1e-10)


def test_a_common_shift_of_all_logits_is_nothing(
    tiny_of: Callable[..., Any], batch: kc.PromptBatch
) -> None:
    """The same vector added to every token's row of the unembedding changes no contribution."""
    tiny, other = tiny_of("layernorm"), tiny_of("layernorm")
    shift = torch.randn(tiny.weights.d_model, dtype=torch.float64)
    other.weights = replace(other.weights, unembed=other.weights.unembed + shift)
    found, shifted = kc.lenses(tiny, batch), kc.lenses(other, batch)
    np.testing.assert_allclose(found.heads, shifted.heads, atol=1e-10)
    np.testing.assert_allclose(found.mlps, shifted.mlps, atol=1e-10)
    assert np.abs(found.mean_logit - shifted.mean_logit).max() > 0.1


def test_a_planted_mover_and_a_planted_relation_head(tiny_of: Callable[..., Any]) -> None:
    """Heads that attend to one token and copy it are told by what they read."""
    from kcircuits.analysis.roles import MOVER, NO_ROLE, RELATION_HEAD, head_roles

    subject, relation, answer = 11, 12, 13
    weights = tiny_of("grouped").weights
    d_head = weights.d_head
    plain = replace(weights.final_norm, gain=torch.ones_like(weights.final_norm.gain))
    embed = torch.zeros_like(weights.embed)
    # Dimension 0: I am the subject; 1: I am the relation; 2: I am the last; 3: the answer's logit.
    embed[subject, 0] = embed[relation, 1] = embed[answer, 2] = 1.0
    zeros = {name: torch.zeros_like(getattr(weights.attention[0], name)) for name in "qkvo"}
    q, k, v, o = (zeros[name] for name in "qkvo")
    q[0, 2] = q[d_head, 2] = 30.0  # heads 0 and 1 ask; all share keys and values
    k[0, 0], v[0, 0], v[1, 1] = 30.0, 1.0, 1.0
    o[0, 0, 3] = o[0, 1, 3] = 1.0  # head 0 looks for the subject
    q[d_head] *= -1  # head 1 looks away from it
    o[1, 0, 3] = o[1, 1, 3] = 1.0
    attention = replace(weights.attention[0], norm=plain, q=q, k=k, v=v, o=o, rotary=None)
    quiet = [replace(a, o=torch.zeros_like(a.o), rotary=None) for a in weights.attention[1:]]
    silent = [replace(m, down=torch.zeros_like(m.down)) for m in weights.mlp]
    unembed = torch.zeros_like(weights.unembed)
    unembed[answer, 3] = 1.0
    planted = tiny_of("grouped")
    planted.weights = replace(
        weights,
        embed=embed,
        attention=(attention, *quiet),
        mlp=tuple(silent),
        unembed=unembed,
        final_norm=plain,
    )
    tokens = np.array([[0, subject, relation, answer]])
    mask = tokens == subject
    batch = replace(
        kc.PromptBatch.from_tokens(tokens, tokens + 20, [[answer, 5]]),
        subject_mask=mask,
        text_mask=np.ones_like(mask),
    )
    found = kc.lenses(planted, batch)
    roles = head_roles(found.heads[0, 0])
    assert (roles[0, 0], roles[0, 1]) == (MOVER, RELATION_HEAD)
    assert (roles[0, 2], *roles[1:].ravel()) == (NO_ROLE,) * 7
    assert found.attention[0, 0, 0, SUBJECT] == pytest.approx(1)
    assert found.attention[0, 0, 1, SUBJECT] == pytest.approx(0)


def test_means_and_standard_errors_are_over_a_facts_prompts(tiny: Any) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 40, (7, 5))
    batch = kc.PromptBatch.from_tokens(
        tokens, tokens[:, ::-1], [[1, 2]] * 7, fact_idx=[0, 1, 0, 0, 1, 0, 2]
    )
    found = kc.lenses(tiny, batch)
    for fact, rows in enumerate(([0, 2, 3, 5], [1, 4], [6])):
        own = found.heads[rows]
        np.testing.assert_allclose(found.mean(found.heads)[fact], own.mean(0))
        error = found.standard_error(found.heads)[fact]
        if len(rows) > 1:
            np.testing.assert_allclose(error, own.std(0, ddof=1) / len(rows) ** 0.5)
        else:
            assert np.isnan(error).all()
    chosen = found.facts(["fact-2", "fact-0"])
    assert chosen.fact_ids == ("fact-2", "fact-0")
    np.testing.assert_array_equal(chosen.heads, found.heads[[6, 0, 2, 3, 5]])
    np.testing.assert_array_equal(chosen.fact_idx, [0, 1, 1, 1, 1])
    with pytest.raises(UsageError, match="'nobody' is not among these lenses"):
        found.facts(["nobody"])


def places(**masks: list[int]) -> kc.PromptBatch:
    """One prompt of six tokens and a padding, with tokens of each kind."""
    tokens = np.arange(14).reshape(1, 14)[:, :7]
    batch = kc.PromptBatch.from_tokens(tokens, tokens + 9, [[1, 2]], lengths=[6])
    chosen = {}
    for name, members in masks.items():
        chosen[f"{name}_mask"] = np.isin(np.arange(7), members)[None]
    return replace(batch, **chosen)


@pytest.mark.parametrize(
    ("masks", "relation", "groups"),
    [
        # A chat template or a token that the tokenizer adds, then text.
        (({"subject": [2, 3], "text": [1, 2, 3, 4, 5]}), "text",
         [REST, RELATION, SUBJECT, SUBJECT, RELATION, LAST, PADDING]),
        # A template goes on after the text: its last token is where the answer is read.
        (({"subject": [2], "text": [1, 2, 3]}), "text",
         [REST, RELATION, SUBJECT, RELATION, REST, LAST, PADDING]),
        # The first token is where heads that look for nothing look.
        (({"subject": [0, 1], "text": [0, 1, 2, 3, 4, 5]}), "text",
         [REST, SUBJECT, RELATION, RELATION, RELATION, LAST, PADDING]),
        # It is the whole subject.
        (({"subject": [0], "text": [0, 1, 2, 3, 4, 5]}), "text",
         [SUBJECT, RELATION, RELATION, RELATION, RELATION, LAST, PADDING]),
        # A subject at the end: the last token is the last.
        (({"subject": [4, 5], "text": [0, 1, 2, 3, 4, 5]}), "text",
         [REST, RELATION, RELATION, RELATION, SUBJECT, LAST, PADDING]),
        (({"subject": [2], "text": [0, 1, 2, 3, 4, 5], "relation": [3, 4]}), "span",
         [REST, REST, SUBJECT, RELATION, RELATION, LAST, PADDING]),
        (({"subject": [2], "text": [0, 1, 2, 3, 4, 5], "relation": [3]}), "text",
         [REST, RELATION, SUBJECT, RELATION, RELATION, LAST, PADDING]),
        ({}, "text", [REST] * 5 + [LAST, PADDING]),
    ],
)  # fmt: skip
def test_positions_belong_to_groups(
    masks: dict[str, list[int]], relation: Any, groups: list[int]
) -> None:
    assert position_groups(places(**masks), relation).tolist() == [groups]


def test_bad_questions_are_refused(tiny: Any, batch: kc.PromptBatch) -> None:
    with pytest.raises(FactsError, match="fact 'fact-0', prompt 0: there is no relation_span"):
        kc.lenses(tiny, batch, relation="span")
    with pytest.raises(UsageError, match="relation is 'verb'; expected text or span"):
        kc.lenses(tiny, batch, relation="verb")  # type: ignore[arg-type]
    declared = replace(batch, uses=("evaluation",) * len(batch))
    with pytest.raises(UsageError, match="there is no prompt for discovery"):
        kc.lenses(tiny, declared)
    assert len(kc.lenses(tiny, declared, use="evaluation")) == len(batch)


def test_numbers_that_are_none_name_their_fact(tiny: Any, batch: kc.PromptBatch) -> None:
    embed = tiny.weights.embed.clone()
    embed[batch.clean[2, 0]] = torch.nan
    tiny.weights = replace(tiny.weights, embed=embed)
    rows = batch.rows([1, 2])
    if batch.clean[2, 0] in batch.clean[1, : batch.lengths[1]]:
        rows = batch.rows([2])
    with pytest.raises(NonFiniteError, match="fact 'fact-2', prompt 0: "):
        kc.lenses(tiny, rows)
