"""Batched generation and likelihoods, held to loops without padding, cache or batch."""

import random

import numpy as np
import pytest
import torch

from kcircuits.errors import NonFiniteError, UsageError
from kcircuits.lab.probing.generation import end_tokens, generate
from kcircuits.lab.probing.likelihood import continuation_logprobs

N_NEW = 9


def prompts(n=7, seed=0, longest=8):
    """Token ids of vocabularies of 96, of different lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 96, rng.integers(1, longest + 1)).tolist() for _ in range(n)]


def slow_generate(model, prompt, n_new, ends=frozenset()):
    """One prompt, no cache, no padding."""
    tokens = list(prompt)
    for _ in range(n_new):
        with torch.no_grad():
            chosen = int(
                model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()
            )
        if chosen in ends:
            break
        tokens.append(chosen)
    return tokens[len(prompt) :]


def slow_logprob(model, prompt, continuation):
    """Token by token."""
    total, tokens = 0.0, list(prompt)
    for token in continuation:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
        total += float(logits[token] - torch.logsumexp(logits, -1))
        tokens.append(token)
    return total


def is_nan_when_padded(variant, dtype):
    """Gemma 2's eager attention takes its softmax in float32, where the mask's float64 is -inf."""
    return variant.startswith("gemma2") and dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_generation_equals_one_prompt_at_a_time_without_cache(
    variant, tiny_folder, plain_model, dtype
):
    model = plain_model(tiny_folder(variant), dtype)
    free = [slow_generate(model, prompt, N_NEW) for prompt in prompts()]
    # Ends that some answers reach: one at once, one in the middle.
    ends = frozenset({free[0][0], free[1][4]})
    expected = [slow_generate(model, prompt, N_NEW, ends) for prompt in prompts()]
    assert len({len(answer) for answer in expected}) > 1
    for batch_size in (1, 3, 32):
        if batch_size > 1 and is_nan_when_padded(variant, dtype):
            with pytest.raises(NonFiniteError, match="NaN while it answers"):
                generate(model, prompts(), max_new_tokens=N_NEW, ends=ends)
            continue
        found = generate(model, prompts(), max_new_tokens=N_NEW, ends=ends, batch_size=batch_size)
        assert found == expected


@pytest.mark.parametrize("n_shared", [3, 40])
def test_generation_after_a_common_beginning_equals_one_prompt_at_a_time(
    variant, tiny_folder, plain_model, n_shared
):
    model = plain_model(tiny_folder(variant), torch.float32)
    n_positions = getattr(model.config, "max_position_embeddings", 64)
    n_shared = min(n_shared, n_positions - N_NEW - 8)
    begin = np.random.default_rng(5).integers(1, 96, n_shared).tolist()
    given = [begin + prompt for prompt in prompts()]
    free = [slow_generate(model, prompt, N_NEW) for prompt in given]
    ends = frozenset({free[0][0], free[1][4]})
    expected = [slow_generate(model, prompt, N_NEW, ends) for prompt in given]
    for batch_size in (1, 3, 32):
        found = generate(model, given, max_new_tokens=N_NEW, ends=ends, batch_size=batch_size)
        assert found == expected


def test_what_prompts_begin_with_is_read_once_and_ended_rows_no_further(tiny_folder, plain_model):
    model = plain_model(tiny_folder("llama"))
    begin = list(range(1, 31))
    given = [begin + prompt for prompt in prompts()]
    free = [slow_generate(model, prompt, N_NEW) for prompt in given]
    ends = frozenset({free[0][0], free[1][4]})
    answers = [slow_generate(model, prompt, N_NEW, ends) for prompt in given]
    n_read = []
    model.register_forward_pre_hook(
        lambda _, __, kwargs: n_read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    generate(model, given, max_new_tokens=N_NEW, ends=ends)
    width = max(len(prompt) for prompt in prompts())
    assert n_read[:2] == [30, len(given) * width]
    # Each answer feeds its own tokens back, but for the last.
    assert sum(n_read[2:]) == sum(min(len(answer), N_NEW - 1) for answer in answers)


def test_generation_equals_that_of_transformers(variant, tiny_folder, plain_model):
    is_nan = is_nan_when_padded(variant, torch.float64)
    model = plain_model(tiny_folder(variant), torch.float32 if is_nan else torch.float64)
    rows = prompts()
    end = slow_generate(model, rows[1], N_NEW)[4]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    settings = {"max_new_tokens": N_NEW, "do_sample": False, "eos_token_id": end, "pad_token_id": 0}
    theirs = model.generate(input_ids=ids, attention_mask=mask, **settings)[:, width:].tolist()
    expected = [row[: row.index(end)] if end in row else row for row in theirs]
    assert generate(model, rows, max_new_tokens=N_NEW, ends=frozenset({end})) == expected


def test_generation_is_greedy_whatever_the_checkpoint_prefers(tiny_folder, plain_model):
    model = plain_model(tiny_folder("llama"))
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.do_sample = True
    expected = [slow_generate(model, prompt, N_NEW) for prompt in prompts()]
    assert generate(model, prompts(), max_new_tokens=N_NEW, ends=frozenset()) == expected


def test_mode_and_random_state_stay(tiny_folder, plain_model):
    model = plain_model(tiny_folder("gpt2")).train()
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    numpy_state = lambda: np.random.get_state()[1].tolist()  # noqa: E731, NPY002
    states = random.getstate(), numpy_state(), torch.get_rng_state()
    generate(model, prompts(), max_new_tokens=2, ends=frozenset())
    continuation_logprobs(model, [((1, 2), [(3,), (4, 5)])])
    assert modes == [module.training for module in model.modules()]
    assert states[0] == random.getstate()
    assert states[1] == numpy_state()
    assert torch.equal(states[2], torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def test_dropout_is_off_while_generating(tiny_folder, plain_model):
    model = plain_model(tiny_folder("gpt2", attn_pdrop=0.5, resid_pdrop=0.5))
    expected = generate(model, prompts(), max_new_tokens=N_NEW, ends=frozenset())
    assert generate(model.train(), prompts(), max_new_tokens=N_NEW, ends=frozenset()) == expected


@pytest.mark.parametrize(
    ("given", "changes", "message"),
    [
        ([[1], []], {}, "prompt 1 has no token"),
        ([[1] * 60], {}, "leaves no room for 9 new ones"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ([[1]], {"batch_size": 0}, "batch size is 0"),
    ],
)
def test_what_cannot_be_answered_is_refused(tiny_folder, plain_model, given, changes, message):
    model = plain_model(tiny_folder("gpt2"))  # reads 64 tokens
    with pytest.raises(UsageError, match=message):
        generate(model, given, **{"max_new_tokens": N_NEW, "ends": frozenset(), **changes})


def test_ends_are_those_of_tokenizer_and_model(tiny_folder, plain_model):
    class Tokenizer:
        eos_token_id = 7

    model = plain_model(tiny_folder("llama"))
    model.generation_config.eos_token_id = [5, 6]
    assert end_tokens(model, Tokenizer) == {5, 6, 7}
    model.generation_config.eos_token_id = None
    assert end_tokens(model, Tokenizer) == {7}


def asked(n=6, n_shared=4, seed=1):
    """Prompts that begin alike, with continuations of different lengths and common beginnings."""
    rng = np.random.default_rng(seed)
    shared = tuple(rng.integers(1, 96, n_shared).tolist())
    made = []
    for _ in range(n):
        prompt = shared + tuple(rng.integers(1, 96, rng.integers(1, 6)).tolist())
        first = tuple(rng.integers(1, 96, 2).tolist())
        made.append((prompt, [(*first, 9), (*first, 8), (9,), (8,), (7, 6, 5, 4)]))
    return made


@pytest.mark.parametrize("n_shared", [0, 4, 9])
def test_likelihood_equals_one_token_at_a_time(variant, tiny_folder, plain_model, n_shared):
    model = plain_model(tiny_folder(variant))
    given = asked(n_shared=n_shared)
    expected = [[slow_logprob(model, p, text) for text in texts] for p, texts in given]
    for batch_size in (1, 4, 64):
        found = continuation_logprobs(model, given, batch_size=batch_size)
        # Float64, sums in another order; but Gemma 2 takes its softmax in float32.
        rtol = 1e-6 if variant.startswith("gemma2") else 1e-9
        np.testing.assert_allclose(found, expected, rtol=rtol)


def test_likelihood_of_one_prompt_and_of_equal_prompts(tiny_folder, plain_model):
    model = plain_model(tiny_folder("llama"))
    given = ((5,), [(3, 4)])
    expected = slow_logprob(model, *given[:1], given[1][0])
    for n in (1, 3):
        found = continuation_logprobs(model, [given] * n)
        np.testing.assert_allclose(found, [[expected]] * n, rtol=1e-9)


def test_likelihood_sums_half_precision_in_float32(tiny_folder, plain_model):
    model = plain_model(tiny_folder("llama"), torch.float32).to(torch.bfloat16)
    ((found,),) = continuation_logprobs(model, [((1, 2), [(3, 4)])])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[1, 2, 3]])).logits[0].float().log_softmax(-1)
    # The same bfloat16 logits; only the sum is ours.
    assert found == pytest.approx(float(logits[1, 3] + logits[2, 4]), rel=1e-5)


def test_likelihood_refuses_nan(tiny_folder, plain_model):
    model = plain_model(tiny_folder("llama"))
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    with pytest.raises(NonFiniteError, match="continuation \\(4,\\) of prompt 0"):
        continuation_logprobs(model, [((1, 2), [(4,)])])


def test_progress_counts_every_row(tiny_folder, plain_model):
    model = plain_model(tiny_folder("llama"))
    seen = []
    generate(
        model, prompts(), max_new_tokens=1, ends=frozenset(), batch_size=3, progress=seen.append
    )
    assert seen == [3, 3, 1]


# What this peft asks this transformers for.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_model_with_an_adapter_answers_as_the_merged_one(tiny_folder, plain_model):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = plain_model(tiny_folder("llama"))
    before = generate(base, prompts(), max_new_tokens=N_NEW, ends=frozenset())
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped = get_peft_model(base, settings).double().train()
    found = generate(wrapped, prompts(), max_new_tokens=N_NEW, ends=frozenset())
    logprobs = continuation_logprobs(wrapped, asked())
    merged = wrapped.merge_and_unload().eval()
    assert found == [slow_generate(merged, prompt, N_NEW) for prompt in prompts()]
    assert found != before
    expected = [[slow_logprob(merged, p, text) for text in texts] for p, texts in asked()]
    np.testing.assert_allclose(logprobs, expected, rtol=1e-9)
