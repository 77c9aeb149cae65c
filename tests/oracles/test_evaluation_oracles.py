"""Circuit evaluation and probing against what can be said without them."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.core.circuit import node_mask, prune_dangling
from kcircuits.core.facts import Use
from kcircuits.engine.forward import run_rows
from kcircuits.engine.layers import attention_output, head_outputs, mlp_output, normalise
from kcircuits.engine.tokens import TokenRows
from kcircuits.errors import NonFiniteError, UsageError
from kcircuits.evaluation import known_facts, probe

MakeBatch = Callable[..., kc.PromptBatch]


def logits_of(model: Any, tokens: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return run_rows(model.weights, torch.as_tensor(tokens))


def difference(logits: torch.Tensor, batch: kc.PromptBatch) -> np.ndarray:
    row = np.arange(len(batch))
    values = logits.numpy()
    return values[row, batch.target] - values[row, batch.foil]


def circuits_of(model: Any, n_facts: int, *, full: bool) -> kc.Circuits:
    edges = model.topology.edge_mask
    mask = np.repeat((edges if full else np.zeros_like(edges))[None], n_facts, 0)
    return kc.Circuits.from_mask(mask, model.topology)


def test_plain_forward_is_the_obvious_loop(tiny: Any, make_batch: MakeBatch) -> None:
    """One token, one head at a time, no batching."""
    weights, batch = tiny.weights, make_batch(2, 5)
    expected = [slow_logits(weights, row) for row in batch.clean]
    torch.testing.assert_close(logits_of(tiny, batch.clean), torch.stack(expected))


def slow_logits(weights: Any, tokens: np.ndarray) -> torch.Tensor:
    n_pos, topology = len(tokens), weights.topology
    resid = weights.embed[torch.as_tensor(tokens)].clone()
    if weights.pos_embed is not None:
        resid += weights.pos_embed[:n_pos]
    for attention, mlp in zip(weights.attention, weights.mlp, strict=True):
        y = normalise(resid, attention.norm).output
        group = topology.n_heads // weights.n_kv_heads
        z = torch.zeros(1, topology.n_heads, n_pos, weights.d_head, dtype=resid.dtype)
        for head in range(topology.n_heads):
            rows = slice(head * weights.d_head, (head + 1) * weights.d_head)
            shared = slice(head // group * weights.d_head, (head // group + 1) * weights.d_head)
            q, k, v = (
                y @ weight[part].T + (0 if bias is None else bias[part])
                for weight, bias, part in (
                    (attention.q, attention.b_q, rows),
                    (attention.k, attention.b_k, shared),
                    (attention.v, attention.b_v, shared),
                )
            )
            if attention.q_norm is not None:
                q, k = normalise(q, attention.q_norm).output, normalise(k, attention.k_norm).output
            if attention.rotary is not None:
                q, k = (rotate(x, *attention.rotary) for x in (q, k))
            for i in range(n_pos):
                first = 0 if attention.window is None else max(0, i - attention.window + 1)
                pattern = torch.softmax((k[first : i + 1] @ q[i]) * attention.scale, 0)
                z[0, head, i] = pattern @ v[first : i + 1]
        written = attention_output(z, attention)[0]
        if attention.b_o is None:  # heads alone make up the layer
            torch.testing.assert_close(head_outputs(z, attention).sum(1)[0], written)
        read = resid if topology.is_parallel else resid + written
        resid = resid + written + mlp_output(normalise(read, mlp.norm).output, mlp)
    final = normalise(resid[-1], weights.final_norm).output
    bias = 0 if weights.b_unembed is None else weights.b_unembed
    return weights.unembed @ final + bias


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = cos.shape[1] // 2
    out = x.clone()
    for i in range(len(x)):
        for j in range(half):
            a, b = x[i, j], x[i, j + half]
            out[i, j] = a * cos[i, j] - b * sin[i, j]
            out[i, j + half] = b * cos[i, j + half] + a * sin[i, j + half]
    return out


@pytest.mark.parametrize("ablation", ["corrupt", "zero"])
def test_full_circuit_is_the_model(tiny: Any, make_batch: MakeBatch, ablation: Any) -> None:
    batch = make_batch()
    result = kc.evaluate(tiny, batch, circuits_of(tiny, 4, full=True), ablation=ablation)
    expected = difference(logits_of(tiny, batch.clean), batch)
    np.testing.assert_allclose(result.metric, expected, atol=1e-10)
    np.testing.assert_allclose(result.clean_metric, expected, atol=1e-10)
    known = ~result.is_gated
    np.testing.assert_allclose(result.faithfulness[known], 1, atol=1e-9)


def test_empty_circuit_is_the_corrupt_run(tiny: Any, make_batch: MakeBatch) -> None:
    batch = make_batch()
    result = kc.evaluate(tiny, batch, circuits_of(tiny, 4, full=False))
    expected = difference(logits_of(tiny, batch.corrupt), batch)
    np.testing.assert_allclose(result.metric, expected, atol=1e-10)
    np.testing.assert_allclose(result.empty_metric, expected, atol=1e-10)
    known = ~result.is_gated
    np.testing.assert_allclose(result.faithfulness[known], 0, atol=1e-9)


def test_empty_circuit_under_zero_is_what_no_edge_leaves(tiny: Any, make_batch: MakeBatch) -> None:
    batch = make_batch()
    result = kc.evaluate(tiny, batch, circuits_of(tiny, 4, full=False), ablation="zero")
    np.testing.assert_allclose(result.metric, result.empty_metric, atol=1e-10)


def test_each_fact_has_its_own_mask(tiny: Any, make_batch: MakeBatch) -> None:
    """Alone or together, with or without a shared prefix, in one chunk or many."""
    batch = make_batch(4, 8, n_shared=4)
    rng = np.random.default_rng(0)
    mask = rng.random((4, *tiny.topology.edge_mask.shape)) < 0.5
    mask &= tiny.topology.edge_mask
    circuits = kc.Circuits.from_mask(mask, tiny.topology)
    together = kc.evaluate(tiny, batch, circuits).metric
    single = kc.evaluate(tiny, batch, circuits, memory=1).metric
    np.testing.assert_allclose(single, together, rtol=1e-9)
    for fact in range(4):
        one = kc.Circuits.from_mask(mask[fact : fact + 1], tiny.topology)
        alone = kc.evaluate(tiny, only(batch, fact), one).metric
        np.testing.assert_allclose(alone[0], together[fact], rtol=1e-9)
    assert len(np.unique(together.round(6))) == 4


def only(batch: kc.PromptBatch, fact: int) -> kc.PromptBatch:
    part = batch.rows([fact])
    return kc.PromptBatch.from_tokens(
        part.clean, part.corrupt, np.stack([part.target, part.foil], 1)
    )


def test_hit_and_rank_are_those_of_the_logits(tiny: Any, make_batch: MakeBatch) -> None:
    batch = make_batch(6)
    result = kc.evaluate(tiny, batch, circuits_of(tiny, 6, full=True), k=5)
    logits = logits_of(tiny, batch.clean).numpy()
    for row in range(6):
        order = np.argsort(-logits[row], kind="stable").tolist()
        rank = order.index(int(batch.target[row])) + 1
        assert result.target_rank[row] == rank
        assert result.hit_at_k[row] == float(rank <= 5)


def test_gate_needs_half_a_logit_and_two_standard_errors(
    tiny_of: Callable[..., Any], make_batch: MakeBatch
) -> None:
    from kcircuits.evaluation.evaluate import summarise
    from kcircuits.evaluation.judge import Judge, Judged

    flat, model = make_batch(8), tiny_of()
    pair = np.stack([flat.target, flat.foil], 1)
    batch = kc.PromptBatch.from_tokens(
        flat.clean, flat.corrupt, pair, fact_idx=[0, 0, 1, 1, 2, 2, 3, 3]
    )
    gaps = np.array([0.4, 0.4, 0.6, 0.6, 4.0, 0.0, 4.0, 2.0])
    judge = Judge(
        model,
        batch,
        batch.fact_ids,
        model.topology,
        metric="logit-difference",
        ablation="corrupt",
        memory=2**30,
    )
    judged = Judged(
        circuit=gaps[:, None] / 2, clean=gaps, empty=0 * gaps, target_rank=0 * gaps[:, None] + 1
    )
    result = summarise(judge, judged, k=1)
    # fact 2: mean gap 2, standard error 2; fact 3: mean gap 3, standard error 1
    assert result.is_gated.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(result.faithfulness, [np.nan, 0.5, np.nan, 0.5])
    assert result.mean_of_ratios == 0.5
    assert result.ratio_of_means == pytest.approx(0.5)


def test_evaluation_uses_evaluation_prompts(tiny: Any, make_batch: MakeBatch) -> None:
    flat = make_batch(4)
    pair = np.stack([flat.target, flat.foil], 1)
    batch = kc.PromptBatch.from_tokens(flat.clean, flat.corrupt, pair, fact_idx=[0, 0, 1, 1])
    uses: tuple[Use, ...] = ("discovery", "evaluation", "discovery", "evaluation")
    batch = replace(batch, uses=uses)
    result = kc.evaluate(tiny, batch, circuits_of(tiny, 2, full=True))
    expected = difference(logits_of(tiny, flat.clean), flat)[[1, 3]]
    np.testing.assert_allclose(result.metric, expected, atol=1e-10)
    assert result.prompts == "evaluation"
    scores = kc.attribute(tiny, batch, reduce="prompt")
    assert scores.prompt_idx is not None
    assert scores.prompt_idx.tolist() == [0, 0]


def test_judging_on_discovery_prompts_is_said(
    tiny: Any, make_batch: MakeBatch, caplog: pytest.LogCaptureFixture
) -> None:
    batch = replace(make_batch(2), uses=("discovery", "discovery"))
    with caplog.at_level(logging.WARNING):
        result = kc.evaluate(tiny, batch, circuits_of(tiny, 2, full=True))
    assert result.prompts == "same"
    assert "has no evaluation prompt" in caplog.text


def test_probe_equals_the_obvious_ranks(tiny: Any, make_batch: MakeBatch) -> None:
    batch = make_batch(5)
    candidates = tuple(((t,), ((t + 7) % 40,), ((t + 11) % 40,)) for t in batch.target.tolist())
    batch = replace(batch, candidates=candidates)
    rows = probe(tiny, batch)
    p = torch.softmax(logits_of(tiny, batch.clean), -1).numpy()
    for i, row in enumerate(rows):
        own = p[i, batch.target[i]]
        assert row["prob"] == pytest.approx(own)
        assert row["logprob"] == pytest.approx(np.log(own))
        assert row["rank"] == 1 + (p[i] > own).sum()
        others = [answer[0] for answer in candidates[i]]
        assert row["candidate_rank"] == 1 + (p[i, others] > own).sum()
        assert row["known"] == (row["candidate_rank"] == 1)
    plain = probe(tiny, replace(batch, candidates=()))
    assert {row["known_rule"] for row in plain} == {"first-in-vocabulary"}
    assert all(row["known"] == (row["rank"] == 1) for row in plain)


def test_a_fact_is_known_when_most_prompts_are() -> None:
    rows = [{"fact": f, "known": k} for f, k in [("a", 1), ("a", 0), ("b", 1), ("b", 1), ("b", 0)]]
    assert known_facts(rows) == {"a": False, "b": True}


def test_dangling_nodes_go_as_by_repeated_removal(tiny: Any) -> None:
    """The two sweeps equal the definition: remove until nothing changes."""
    topology = tiny.topology
    rng = np.random.default_rng(1)
    for density in (0.02, 0.05, 0.1, 0.3):
        mask = (rng.random((5, *topology.edge_mask.shape)) < density) & topology.edge_mask
        pruned = prune_dangling(mask, topology)
        for fact in range(5):
            assert np.array_equal(pruned[fact], remove_until_stable(mask[fact], topology))


def remove_until_stable(mask: np.ndarray, topology: Any) -> np.ndarray:
    edges = {(topology.forward_names[u], topology.backward_names[v]) for u, v in np.argwhere(mask)}
    while True:
        read = {v.split("<")[0] for _, v in edges} | {"input"}
        wrote = {u for u, _ in edges} | {"logits"}
        kept = {(u, v) for u, v in edges if u in read and v.split("<")[0] in wrote}
        if kept == edges:
            break
        edges = kept
    result = np.zeros_like(mask)
    for u, v in edges:
        result[topology.forward_index(u), topology.backward_index(v)] = True
    return result


def test_graph_holds_each_edge_of_the_mask(tiny: Any, make_batch: MakeBatch) -> None:
    scores = kc.attribute(tiny, make_batch())
    circuits = kc.select(scores, n_edges=30)
    graph = circuits.graph("fact-1")
    assert graph.is_directed()
    assert graph.number_of_edges() == circuits.n_edges[1]
    names = {data["name"] for _, _, data in graph.edges(data=True)}
    assert names == set(circuits.edges("fact-1"))
    touched = np.array(tiny.topology.nodes)[node_mask(circuits.mask, tiny.topology)[1]]
    assert set(graph.nodes) == set(touched.tolist())
    for u, v, data in graph.edges(data=True):
        i, j = tiny.topology.edge_index(data["name"])
        assert data["score"] == scores.values[1, i, j]
        assert graph.nodes[u]["layer"] <= graph.nodes[v]["layer"]


def test_selection_keeps_the_largest_and_breaks_ties_by_name(tiny: Any) -> None:
    topology = tiny.topology
    values = np.zeros((1, topology.n_forward, topology.n_backward))
    order = np.argwhere(topology.edge_mask)
    values[0, order[:, 0], order[:, 1]] = np.arange(len(order), 0, -1.0)
    tied = [topology.edge_index(name) for name in ("m0->logits", "a0.h1->logits", "m1->logits")]
    for u, v in tied:
        values[0, u, v] = -1000.0
    scores = kc.EdgeScores(
        values=values,
        topology=topology,
        fact_ids=("f",),
        fact_idx=np.array([0]),
        provenance=kc.Circuits.from_mask(values != 0, topology).provenance,
    )
    two = kc.select(scores, n_edges=2, prune=False)
    assert set(two.edges("f")) == {"a0.h1->logits", "m0->logits"}
    assert two.n_ties.tolist() == [1]
    four = kc.select(scores, n_edges=4, prune=False)
    assert four.n_selected.tolist() == [4]
    assert four.n_ties.tolist() == [0]
    above = kc.select(scores, threshold=1000.0, prune=False)
    assert above.n_edges.tolist() == [3]
    share = kc.select(scores, fraction=0.5, prune=False)
    assert share.n_edges.tolist() == [topology.n_edges // 2]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "exactly one"),
        ({"n_edges": 3, "fraction": 0.1}, "exactly one"),
        ({"n_edges": -1}, "n_edges is -1"),
        ({"n_edges": 10**6}, "n_edges is 1000000"),
        ({"fraction": 0.0}, "fraction is 0.0"),
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"threshold": 0.0}, "threshold is 0.0"),
        ({"threshold": float("nan")}, "threshold is nan"),
    ],
)
def test_selection_rules_that_cannot_be_meant_are_refused(
    tiny_of: Callable[..., Any], make_batch: MakeBatch, rule: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        kc.select(kc.attribute(tiny_of(), make_batch()), **rule)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ablation": "average"}, "ablation is 'average'"),
        ({"metric": "loss"}, "there is no metric 'loss'"),
        ({"k": 0}, "k is 0"),
    ],
)
def test_evaluation_options_are_checked(
    tiny_of: Callable[..., Any], make_batch: MakeBatch, options: dict[str, Any], message: str
) -> None:
    model = tiny_of()
    with pytest.raises(UsageError, match=message):
        kc.evaluate(model, make_batch(), circuits_of(model, 4, full=True), **options)


def test_circuits_of_another_model_are_refused(
    tiny_of: Callable[..., Any], make_batch: MakeBatch
) -> None:
    circuits = circuits_of(tiny_of("parallel"), 4, full=True)
    with pytest.raises(UsageError, match="the circuits belong to"):
        kc.evaluate(tiny_of("grouped"), make_batch(), circuits)


def test_a_metric_that_is_not_finite_names_the_fact(
    tiny_of: Callable[..., Any], make_batch: MakeBatch
) -> None:
    model = tiny_of()
    unembed = model.weights.unembed.clone()
    batch = make_batch()
    unembed[int(batch.target[2])] = float("inf")
    model.weights = replace(model.weights, unembed=unembed)
    with pytest.raises(NonFiniteError, match="'fact-2'"):
        kc.evaluate(model, batch, circuits_of(model, 4, full=True))


def test_token_ids_beyond_the_embedding_are_refused(
    tiny_of: Callable[..., Any], make_batch: MakeBatch
) -> None:
    from kcircuits.errors import CheckpointError

    batch = make_batch()
    clean = batch.clean.copy()
    clean[0, 0] = 40
    with pytest.raises(CheckpointError, match="token id 40 is beyond the embedding"):
        TokenRows.from_batch(replace(batch, clean=clean), tiny_of().weights)
    targets = ((41,),) * len(batch)
    with pytest.raises(CheckpointError, match="token id 41 is beyond the embedding"):
        TokenRows.from_batch(replace(batch, targets=targets), tiny_of().weights)
