"""A forward pass as plain and slow as can be: one row, one head, one edge at a time.

Every receiver adds up by itself what it reads of every sender, so that a test can change one edge
at one position; the backward rules of other methods are written out as stop-gradients. It shares
nothing with the engine but the weights. Senders and receivers go by name.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import kcircuits as kc

Edge = Callable[[str, str, Tensor], Tensor]
Outputs = Mapping[str, Tensor]


@dataclass
class Run:
    """Logits after every position, what each sender wrote and how each layer's neurons fired."""

    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    outputs: dict[str, Tensor] = field(default_factory=dict)
    hidden: list[Tensor] = field(default_factory=list)


def run(
    weights: Any,
    tokens: Sequence[int],
    *,
    rule: str = "gradient",
    edge: Edge = lambda _u, _v, out: out,
    write: Callable[[str, Tensor], Tensor] = lambda _u, out: out,
    fire: Callable[[int, Tensor], Tensor] = lambda _layer, hidden: hidden,
) -> Run:
    """Runs one row.

    ``edge`` says what a receiver reads of a sender, ``write`` what a sender writes and ``fire``
    how neurons fire, each given what the model itself would. ``rule`` is ``gradient``, ``relp``
    or ``gim``.
    """
    heads = range(weights.topology.n_heads)
    done = Run()
    always = torch.zeros(len(tokens), weights.d_model, dtype=weights.dtype)
    if weights.pos_embed is not None:
        always = always + weights.pos_embed[: len(tokens)]

    def put(sender: str, out: Tensor) -> None:
        done.outputs[sender] = write(sender, out)

    def read(receiver: str) -> Tensor:
        return always + sum(edge(u, receiver, out) for u, out in done.outputs.items())

    put("input", weights.embed[torch.as_tensor(list(tokens))])
    for layer, (attention, mlp) in enumerate(zip(weights.attention, weights.mlp, strict=True)):
        inputs = [[read(f"a{layer}.h{head}<{kind}>") for kind in "qkv"] for head in heads]
        mlp_in = read(f"m{layer}") if weights.topology.is_parallel else None
        for head, out in enumerate(attend(weights, attention, inputs, rule)):
            put(f"a{layer}.h{head}", out)
        if attention.b_o is not None:
            always = always + attention.b_o
        mlp_in = read(f"m{layer}") if mlp_in is None else mlp_in
        hidden = fire(layer, activate(norm(mlp_in, mlp.norm, rule), mlp, rule))
        done.hidden.append(hidden)
        out = hidden @ mlp.down.T + (0 if mlp.b_down is None else mlp.b_down)
        put(f"m{layer}", out if mlp.post_norm is None else norm(out, mlp.post_norm, rule))
    final = norm(read("logits"), weights.final_norm, rule)
    done.logits = final @ weights.unembed.T
    if weights.b_unembed is not None:
        done.logits = done.logits + weights.b_unembed
    return done


def spread(x: Tensor, weights: Any, rule: str) -> tuple[Tensor, Tensor]:
    """The centred input of a norm and its standard deviation (or root mean square)."""
    centred = x - x.mean(-1, keepdim=True) if weights.is_centred else x
    deviation = (centred.square().mean(-1, keepdim=True) + weights.eps).sqrt()
    return centred, deviation if rule == "gradient" else deviation.detach()


def norm(x: Tensor, weights: Any, rule: str) -> Tensor:
    if weights is None:
        return x
    centred, deviation = spread(x, weights, rule)
    out = centred / deviation * weights.gain
    return out if weights.bias is None else out + weights.bias


def attend(weights: Any, attention: Any, inputs: list[list[Tensor]], rule: str) -> list[Tensor]:
    """What each head writes, from its own inputs q, k and v."""
    d_head, group = weights.d_head, weights.topology.n_heads // weights.n_kv_heads
    places = range(inputs[0][0].shape[-2])
    window = len(places) if attention.window is None else attention.window
    unseen = torch.tensor([[j > i or i - j >= window for j in places] for i in places])
    written = []
    for head, own in enumerate(inputs):
        mine = slice(head * d_head, (head + 1) * d_head)
        shared = slice(head // group * d_head, (head // group + 1) * d_head)
        q, k, v = (
            norm(x, attention.norm, rule) @ weight[part].T + (0 if bias is None else bias[part])
            for x, weight, bias, part in (
                (own[0], attention.q, attention.b_q, mine),
                (own[1], attention.k, attention.b_k, shared),
                (own[2], attention.v, attention.b_v, shared),
            )
        )
        if attention.q_norm is not None:
            q, k = norm(q, attention.q_norm, rule), norm(k, attention.k_norm, rule)
        if rule == "gim":
            q, k, v = damped(q, 1 / 4), damped(k, 1 / 4), damped(v, 1 / 2)
        if attention.rotary is not None:
            q, k = (rotated(x, *attention.rotary) for x in (q, k))
        scores = q @ k.mT * attention.scale
        scores = scores.masked_fill(unseen, -torch.inf)
        pattern = warm_softmax(scores, 2.0) if rule == "gim" else scores.softmax(-1)
        written.append(pattern @ v @ attention.o[head])
    if attention.post_norm is None:
        return written
    _, deviation = spread(sum(written, torch.zeros(())), attention.post_norm, rule)
    return [out / deviation * attention.post_norm.gain for out in written]


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the first dimensions, half with half; the others pass."""
    n_pos, width = x.shape[-2], cos.shape[1]
    half = width // 2
    cos, sin = cos[:n_pos], sin[:n_pos]
    a, b, passing = x[..., :half], x[..., half:width], x[..., width:]
    first = a * cos[:, :half] - b * sin[:, :half]
    second = b * cos[:, half:] + a * sin[:, half:]
    return torch.cat([first, second, passing], -1)


def activate(y: Tensor, mlp: Any, rule: str) -> Tensor:
    """How neurons fire."""

    def act(x: Tensor) -> Tensor:
        return x * (mlp.activation(x) / x).detach() if rule == "relp" else mlp.activation(x)

    up = y @ mlp.up.T + (0 if mlp.b_up is None else mlp.b_up)
    if mlp.gate is None:
        return act(up)
    gate = y @ mlp.gate.T
    if rule == "gim":
        return act(damped(gate, 1 / 2)) * damped(up, 1 / 2)
    product = act(gate) * up
    return product / 2 + (product / 2).detach() if rule == "relp" else product


def damped(x: Tensor, share: float) -> Tensor:
    """The same values with a share of the gradient."""
    return share * x + ((1 - share) * x).detach()


def warm_softmax(scores: Tensor, temperature: float) -> Tensor:
    """A softmax whose gradient uses the Jacobian diag(p) - p p' at another temperature's p."""
    p = (scores / temperature).softmax(-1).detach()
    scores = scores.masked_fill(scores == -torch.inf, 0.0)  # p is 0 there
    moved = p * scores - p * (p * scores).sum(-1, keepdim=True)
    plain = scores.masked_fill(p == 0, -torch.inf).softmax(-1)
    return plain.detach() + moved - moved.detach()


@dataclass(frozen=True)
class AnswerRow:
    """A prompt followed by an answer, and what it adds to the metric."""

    clean: list[int]
    corrupt: list[int]
    n_prompt: int
    answer: tuple[int, ...]
    sign: float


def answer_rows(batch: kc.PromptBatch, prompt: int, metric: str) -> Iterator[AnswerRow]:
    """A row for the target, and one for the foil where the metric has one."""
    n_prompt = int(batch.lengths[prompt])
    clean, corrupt = (ids[prompt, :n_prompt].tolist() for ids in (batch.clean, batch.corrupt))
    answers = [(batch.targets[prompt], 1.0)]
    if metric == "logit-difference":
        answers.append((batch.foils[prompt], -1.0))
    for answer, sign in answers:
        fed = list(answer[:-1])
        yield AnswerRow(clean + fed, corrupt + fed, n_prompt, answer, sign)


def measure(logits: Tensor, clean_logits: Tensor, row: AnswerRow, metric: str) -> Tensor:
    """What a row adds to the metric: sums over the answer's positions."""
    places = [row.n_prompt - 1 + i for i in range(len(row.answer))]
    p, q = logits.log_softmax(-1), clean_logits.log_softmax(-1)
    if metric == "kl":
        return sum(((q[i].exp() * (q[i] - p[..., i, :])).sum(-1) for i in places), torch.zeros(()))
    return row.sign * sum(
        (p[..., i, token] for i, token in zip(places, row.answer, strict=True)), torch.zeros(())
    )


def ablated_outputs(
    weights: Any, row: AnswerRow, ablation: str, constants: Tensor | None = None
) -> dict[str, Tensor]:
    """What senders give where their edges are ablated."""
    names = weights.topology.forward_names
    if ablation == "corrupt":
        return run(weights, row.corrupt).outputs
    shape = (len(row.clean), weights.d_model)
    if ablation == "zero":
        return {name: torch.zeros(shape, dtype=weights.dtype) for name in names}
    assert constants is not None
    last = constants.shape[1] - 1
    places = [min(pos, last) for pos in range(shape[0])]
    return {name: constants[u, places] for u, name in enumerate(names)}


def mean_outputs(weights: Any, batch: kc.PromptBatch, *, by_position: bool) -> Tensor:
    """What senders write on average [sender, pos, d_model]: at each position, then at any."""
    rows = [next(answer_rows(batch, i, "log-probability")) for i in range(len(batch))]
    seen = [run(weights, row.clean).outputs for row in rows]
    n_pos = max(len(row.clean) for row in rows) if by_position else 0
    means = []
    for name in weights.topology.forward_names:
        written = [out[name] for out in seen]
        at = [torch.stack([x[pos] for x in written if pos < len(x)]) for pos in range(n_pos)]
        means.append(torch.stack([x.mean(0) for x in (*at, torch.cat(written))]))
    return torch.stack(means)


def edge_gradients(
    weights: Any, row: AnswerRow, metric: str, **options: Any
) -> dict[tuple[str, str], Tensor]:
    """Of every edge the gradient [pos, d_model] of the metric at what the receiver reads."""
    shifts: dict[tuple[str, str], Tensor] = {}

    def edge(u: str, v: str, out: Tensor) -> Tensor:
        shifts[u, v] = torch.zeros_like(out, requires_grad=True)
        return out + shifts[u, v]

    clean_logits = run(weights, row.clean).logits
    logits = run(weights, row.clean, edge=edge, **options).logits
    value = measure(logits, clean_logits, row, metric)
    gradients = torch.autograd.grad(value, list(shifts.values()), materialize_grads=True)
    return dict(zip(shifts, gradients, strict=True))


def edge_scores(
    weights: Any,
    batch: kc.PromptBatch,
    prompt: int,
    *,
    metric: str = "logit-difference",
    ablation: str = "corrupt",
    constants: Tensor | None = None,
    runs: Callable[[Outputs, Outputs], Sequence[dict[str, Any]]] = lambda _clean, _given: [{}],
) -> np.ndarray:
    """Sums over positions of (ablated - clean output) times the mean gradient over some runs.

    ``runs`` gives the options of each run, from the clean and the ablated outputs.
    """
    topology = weights.topology
    scores = np.zeros((topology.n_forward, topology.n_backward))
    for row in answer_rows(batch, prompt, metric):
        clean = run(weights, row.clean).outputs
        given = ablated_outputs(weights, row, ablation, constants)
        chosen = runs(clean, given)
        for options in chosen:
            for (u, v), gradient in edge_gradients(weights, row, metric, **options).items():
                place = topology.forward_index(u), topology.backward_index(v)
                product = ((given[u] - clean[u]) * gradient).sum()
                scores[place] += float(product) / len(chosen)
    return scores
