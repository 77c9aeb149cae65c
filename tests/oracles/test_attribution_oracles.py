"""Attribution against finite differences, exact patching, planted circuits and its own algebra."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.discovery.eap_ig_inputs import grid
from kcircuits.engine.attribution import Question, path_scores
from kcircuits.engine.chunks import plan_chunks
from kcircuits.engine.masked import circuit_logits, set_stage
from kcircuits.engine.metrics import METRICS, get_metric
from kcircuits.engine.tokens import Reads, TokenRows
from kcircuits.errors import NonFiniteError, UsageError

MakeBatch = Callable[..., kc.PromptBatch]


def metric_with_mask(model: Any, rows: TokenRows, mask: torch.Tensor, name: str) -> torch.Tensor:
    """A metric of the masked forward; masks between 0 and 1 interpolate."""
    metric = get_metric(name)
    with torch.no_grad():
        stage = set_stage(model.weights, rows)
        logits = circuit_logits(model.weights, stage, mask)
    return metric.by_prompt(logits, stage.clean_logits, rows)


def full_mask(model: Any, n_rows: int) -> torch.Tensor:
    edges = torch.as_tensor(model.topology.edge_mask, dtype=torch.float64)
    return edges.repeat(n_rows, 1, 1)


@pytest.mark.parametrize("name", ["logit-difference", "log-probability"])
def test_eap_is_the_slope_of_the_masked_metric(tiny: Any, make_batch: MakeBatch, name: str) -> None:
    """EAP of an edge = d metric / d (share of the edge that is corrupted), for every edge."""
    batch = make_batch(3)
    rows = TokenRows.from_batch(batch, tiny.weights, share_prefix=False)
    scores = kc.attribute(tiny, batch, "eap", metric=name).values
    step = 1e-5
    for u, v in np.argwhere(tiny.topology.edge_mask):
        values = []
        for sign in (1, -1):
            mask = full_mask(tiny, len(batch))
            mask[:, u, v] -= sign * step
            values.append(metric_with_mask(tiny, rows, mask, name))
        slope = ((values[0] - values[1]) / (2 * step)).numpy()
        assert np.abs(scores[:, u, v] - slope).max() <= 1e-6 * np.abs(scores).max()


def test_eap_ig_averages_gradients_along_the_path(tiny: Any, make_batch: MakeBatch) -> None:
    """Each step of the grid is a run of its own: a grid of two is the mean of its points."""
    rows = TokenRows.from_batch(make_batch(), tiny.weights)
    asked = Question(metric=get_metric("logit-difference"))
    both = path_scores(tiny.weights, rows, asked, (0.0, 0.5))
    single = [path_scores(tiny.weights, rows, asked, (alpha,)) for alpha in (0.0, 0.5)]
    torch.testing.assert_close(both, (single[0] + single[1]) / 2, rtol=1e-10, atol=1e-12)


def test_eap_ig_input_edges_sum_to_the_whole_effect(tiny: Any, make_batch: MakeBatch) -> None:
    """Completeness of integrated gradients: edges from the input carry m(corrupt) - m(clean)."""
    batch = make_batch(3)
    scores = kc.attribute(tiny, batch, ig_steps=600, memory="8GiB").values[:, 0].sum(1)
    rows = TokenRows.from_batch(batch, tiny.weights, share_prefix=False)
    clean = metric_with_mask(tiny, rows, full_mask(tiny, 3), "logit-difference").numpy()
    nothing = torch.zeros(3, *tiny.topology.edge_mask.shape, dtype=torch.float64)
    corrupt = metric_with_mask(tiny, rows, nothing, "logit-difference").numpy()
    assert np.abs(scores - (corrupt - clean)).max() <= 0.02 * np.abs(corrupt - clean).max()


def test_eap_equals_exact_patching_where_the_map_is_linear(
    tiny_of: Callable[..., Any], make_batch: MakeBatch
) -> None:
    """Into the logits, with the final norm's scale fixed by a huge epsilon, the map is linear."""
    model = tiny_of("grouped")
    norm = replace(model.weights.final_norm, eps=1e14)
    model.weights = replace(model.weights, final_norm=norm)
    batch = make_batch()
    rows = TokenRows.from_batch(batch, model.weights, share_prefix=False)
    scores = kc.attribute(model, batch, "eap").values
    clean = metric_with_mask(model, rows, full_mask(model, len(batch)), "logit-difference")
    for u in range(model.topology.n_forward):
        mask = full_mask(model, len(batch))
        mask[:, u, -1] = 0
        effect = metric_with_mask(model, rows, mask, "logit-difference") - clean
        np.testing.assert_allclose(scores[:, u, -1], effect.numpy(), rtol=1e-6, atol=1e-14)


def test_approximation_improves_as_the_corruption_shrinks(
    tiny_of: Callable[..., Any], make_batch: MakeBatch
) -> None:
    """|EAP - exact| falls faster than the corruption itself."""
    errors = []
    for size in (1e-1, 1e-2, 1e-3):
        model = tiny_of("layernorm")
        table = model.weights.embed.clone()
        table[1] = table[0] + size * torch.linspace(-1, 1, table.shape[1], dtype=torch.float64)
        model.weights = replace(model.weights, embed=table)
        batch = kc.PromptBatch.from_tokens([[5, 0, 7, 8]], [[5, 1, 7, 8]], [[3, 4]])
        rows = TokenRows.from_batch(batch, model.weights, share_prefix=False)
        scores = kc.attribute(model, batch, "eap").values[0]
        clean = metric_with_mask(model, rows, full_mask(model, 1), "logit-difference")
        worst = 0.0
        for u, v in np.argwhere(model.topology.edge_mask):
            mask = full_mask(model, 1)
            mask[:, u, v] = 0
            exact = metric_with_mask(model, rows, mask, "logit-difference") - clean
            worst = max(worst, abs(float(exact) - scores[u, v]))
        errors.append(worst)
    assert errors[1] < errors[0] / 30
    assert errors[2] < errors[1] / 30


def test_helpful_edges_score_negative(tiny: Any, make_batch: MakeBatch) -> None:
    """Where corruption lowers the logit difference, the whole effect is negative."""
    batch = make_batch(8)
    rows = TokenRows.from_batch(batch, tiny.weights, share_prefix=False)
    clean = metric_with_mask(tiny, rows, full_mask(tiny, 8), "logit-difference").numpy()
    mask = torch.zeros(8, *tiny.topology.edge_mask.shape, dtype=torch.float64)
    drop = metric_with_mask(tiny, rows, mask, "logit-difference").numpy() - clean
    scores = kc.attribute(tiny, batch, ig_steps=200, memory="8GiB").values[:, 0].sum(1)
    decided = np.abs(drop) > 0.2
    assert decided.any()
    assert np.array_equal(np.sign(scores[decided]), np.sign(drop[decided]))


def test_equal_prompts_score_zero(tiny: Any, make_batch: MakeBatch) -> None:
    batch = make_batch()
    same = replace(batch, corrupt=batch.clean)
    for method in ("eap", "eap-ig-inputs"):
        assert not kc.attribute(tiny, same, method).values.any()


def test_swapped_target_and_foil_negate_scores(tiny: Any, make_batch: MakeBatch) -> None:
    batch = make_batch()
    swapped = replace(batch, targets=batch.foils, foils=batch.targets)
    np.testing.assert_allclose(
        kc.attribute(tiny, swapped).values, -kc.attribute(tiny, batch).values, atol=1e-12
    )


def test_planted_circuit_scores_exactly_zero_outside(
    tiny_of: Callable[..., Any], make_batch: MakeBatch
) -> None:
    """Only input, a0.h1 and m2 write: every edge from another sender scores exactly 0."""
    model = tiny_of("qk-norm")
    attention = []
    for layer, block in enumerate(model.weights.attention):
        o = block.o.clone()
        o[[head for head in range(len(o)) if (layer, head) != (0, 1)]] = 0
        attention.append(replace(block, o=o))
    mlp = [
        block if layer == 2 else replace(block, down=torch.zeros_like(block.down))
        for layer, block in enumerate(model.weights.mlp)
    ]
    model.weights = replace(model.weights, attention=tuple(attention), mlp=tuple(mlp))
    scores = kc.attribute(model, make_batch()).values
    writers = {"input", "a0.h1", "m2"}
    for u, name in enumerate(model.topology.forward_names):
        assert scores[:, u].any() == (name in writers)
    # With logits fed by m2 alone among the late nodes, nothing reaches receivers nobody reads.
    assert not scores[:, :, model.topology.attention_columns(2)].any()


def test_permuted_heads_permute_scores(tiny_of: Callable[..., Any], make_batch: MakeBatch) -> None:
    model, batch = tiny_of("layernorm"), make_batch()
    before = kc.attribute(model, batch).values
    order, layer = [2, 0, 1], 1
    block = model.weights.attention[layer]

    def permute(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unflatten(0, (3, -1))[order].flatten(0, 1)

    moved = replace(
        block,
        **{name: permute(getattr(block, name)) for name in ("q", "k", "v", "b_q", "b_k", "b_v")},
        o=block.o[order],
    )
    blocks = (model.weights.attention[0], moved, model.weights.attention[2])
    model.weights = replace(model.weights, attention=blocks)
    after = kc.attribute(model, batch).values
    senders = np.arange(model.topology.n_forward)
    first = model.topology.n_before_attention(layer)
    senders[first : first + 3] = first + np.array(order)
    receivers = np.arange(model.topology.n_backward)
    start = model.topology.attention_columns(layer).start
    for kind in range(3):
        place = start + 3 * kind
        receivers[place : place + 3] = place + np.array(order)
    np.testing.assert_allclose(after, before[:, senders][:, :, receivers], atol=1e-12)


def test_neighbours_order_and_chunks_change_nothing(tiny: Any, make_batch: MakeBatch) -> None:
    batch = make_batch(6, n_shared=3)
    together = kc.attribute(tiny, batch).values
    alone = kc.attribute(tiny, batch, memory=1).values
    order = np.array([3, 1, 5, 0, 2, 4])
    shuffled = kc.attribute(tiny, batch.facts([batch.fact_ids[i] for i in order])).values
    np.testing.assert_allclose(alone, together, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(shuffled, together[order], rtol=1e-9, atol=1e-12)


def test_shared_prefix_changes_nothing(tiny: Any, make_batch: MakeBatch) -> None:
    batch = make_batch(4, 9, n_shared=6)
    asked = Question(metric=get_metric("logit-difference"))
    shared = TokenRows.from_batch(batch, tiny.weights)
    whole = TokenRows.from_batch(batch, tiny.weights, share_prefix=False)
    assert (shared.n_shared, whole.n_shared) == (6, 0)
    values = [path_scores(tiny.weights, rows, asked, grid(5, "left")) for rows in (shared, whole)]
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-12)


def test_padding_changes_nothing(tiny: Any, make_batch: MakeBatch) -> None:
    """A short prompt scores the same alone and beside a longer one, whatever the padding holds."""
    long, short = make_batch(2, 9), make_batch(2, 6, seed=1)
    clean, corrupt = long.clean.copy(), long.corrupt.copy()
    clean[:, :6], corrupt[:, :6] = short.clean, short.corrupt
    both = kc.PromptBatch.from_tokens(
        np.concatenate([long.clean, clean]),
        np.concatenate([long.corrupt, corrupt]),
        np.stack(
            [
                np.concatenate([long.target, short.target]),
                np.concatenate([long.foil, short.foil]),
            ],
            1,
        ),
        lengths=[9, 9, 6, 6],
    )
    scores = kc.attribute(tiny, both).values
    np.testing.assert_allclose(scores[:2], kc.attribute(tiny, long).values, atol=1e-12)
    np.testing.assert_allclose(scores[2:], kc.attribute(tiny, short).values, atol=1e-12)


def test_fact_scores_are_the_mean_of_their_prompts(tiny: Any, make_batch: MakeBatch) -> None:
    flat = make_batch(5)
    pair = np.stack([flat.target, flat.foil], 1)
    batch = kc.PromptBatch.from_tokens(flat.clean, flat.corrupt, pair, fact_idx=[0, 1, 0, 1, 1])
    by_prompt = kc.attribute(tiny, batch, reduce="prompt")
    assert by_prompt.prompt_idx is not None
    assert by_prompt.prompt_idx.tolist() == [0, 0, 1, 1, 2]
    by_fact = kc.attribute(tiny, batch).values
    np.testing.assert_allclose(by_fact[0], by_prompt.values[[0, 2]].mean(0), atol=1e-12)
    np.testing.assert_allclose(by_fact[1], by_prompt.values[[1, 3, 4]].mean(0), atol=1e-12)
    np.testing.assert_allclose(by_prompt.mean_by_fact().values, by_fact, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "bound"),
    # These random weights amplify rounding (2e-5 seen in float32; the reference models hold
    # 1e-5); bfloat16 keeps 8 bits.
    [(torch.float32, 1e-4), (torch.bfloat16, 0.2)],
)
def test_lower_precision_stays_near(
    tiny: Any, make_batch: MakeBatch, dtype: torch.dtype, bound: float
) -> None:
    batch = make_batch()
    exact = kc.attribute(tiny, batch).values
    tiny.weights = cast(tiny.weights, dtype)
    scores = kc.attribute(tiny, batch)
    assert scores.values.dtype == np.float32
    assert np.abs(scores.values - exact).max() <= bound * np.abs(exact).max()


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Weights in another type."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype)
    if isinstance(value, tuple):
        return tuple(cast(item, dtype) for item in value)
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, kc.Topology):
        fields = {name: cast(getattr(value, name), dtype) for name in value.__dataclass_fields__}
        return replace(value, **fields)
    return value


@pytest.mark.parametrize("name", METRICS)
def test_metrics_equal_their_definition(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, clean = (torch.randn(3, 11, generator=generator).double() for _ in range(2))
    target, foil = torch.tensor([1, 4, 9]), torch.tensor([0, 5, 10])
    expected = []
    for row in range(3):
        p = (logits[row].exp() / logits[row].exp().sum()).tolist()
        q = (clean[row].exp() / clean[row].exp().sum()).tolist()
        by_name = {
            "logit-difference": float(logits[row, target[row]] - logits[row, foil[row]]),
            "log-probability": float(np.log(p[int(target[row])])),
            "kl": sum(b * np.log(b / a) for a, b in zip(p, q, strict=True)),
        }
        expected.append(by_name[name])
    rows = torch.arange(3)
    reads = Reads(row=rows, pos=rows, token=target, other=foil, sign=rows * 0.0 + 1, prompt=rows)
    values = METRICS[name].compute(logits, clean, reads)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-6)


def test_kl_is_refused_where_its_gradient_vanishes(tiny: Any, make_batch: MakeBatch) -> None:
    batch = make_batch()
    with pytest.raises(UsageError, match="gradient at the clean run is zero") as caught:
        kc.attribute(tiny, batch, "eap", metric="kl")
    assert "eap-ig-inputs" in (caught.value.hint or "")
    assert kc.attribute(tiny, batch, "eap-ig-inputs", metric="kl").values.any()


def test_nan_names_fact_and_edge(tiny_of: Callable[..., Any], make_batch: MakeBatch) -> None:
    model = tiny_of()
    down = model.weights.mlp[1].down.clone()
    down[0, 0] = float("nan")
    mlp = (model.weights.mlp[0], replace(model.weights.mlp[1], down=down), model.weights.mlp[2])
    model.weights = replace(model.weights, mlp=mlp)
    with pytest.raises(NonFiniteError, match=r"fact 'fact-0'.*->.*not finite"):
        kc.attribute(model, make_batch())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "eap-gi"}, "there is no method 'eap-gi'"),
        ({"metric": "accuracy"}, "there is no metric 'accuracy'"),
        ({"reduce": "mean"}, "reduce is 'mean'"),
        ({"ig_steps": 0}, "ig_steps is 0"),
        ({"ig_steps": 2.5}, "ig_steps is 2.5"),
        ({"ig_grid": "middle"}, "ig_grid is 'middle'"),
        ({"method": "eap", "ig_steps": 5}, "ig_steps = 5 is no parameter of eap"),
        ({"memory": "lots"}, "memory is 'lots'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    tiny_of: Callable[..., Any], make_batch: MakeBatch, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        kc.attribute(tiny_of(), make_batch(), **options)


def test_chunks_side_by_side_change_nothing(tiny: Any, make_batch: MakeBatch) -> None:
    """Threads give the scores of one thread, in the same order, and leave torch as it was."""
    batch, before = make_batch(7, n_shared=2), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = kc.attribute(tiny, batch).values
        torch.set_num_threads(3)
        together = kc.attribute(tiny, batch).values
        again = kc.attribute(tiny, batch).values
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(together, alone, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(together, again)


@pytest.mark.parametrize(("n_workers", "sizes"), [(1, [4, 4, 4]), (2, [2] * 6), (4, [1] * 12)])
def test_chunks_fill_all_workers_within_the_budget(
    make_batch: MakeBatch, n_workers: int, sizes: list[int]
) -> None:
    """Five prompts of ten bytes fit into 50 bytes, over all workers."""
    plan = plan_chunks(make_batch(12), 10, 50, n_workers)
    assert sorted(np.concatenate(plan).tolist()) == list(range(12))
    assert [len(index) for index in plan] == sizes
