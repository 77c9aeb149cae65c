"""Roles of heads: slow twins, planted changes, and what noise alone gives."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from kcircuits.analysis.fact_lenses import fact_lenses
from kcircuits.analysis.overlap.halves import split_halves
from kcircuits.analysis.roles import (
    MIN_CONTRIBUTION,
    MIXTURE,
    MOVER,
    NO_ROLE,
    RELATION_HEAD,
    ROLES,
    count_roles,
    fact_roles,
    head_roles,
    role_step,
)
from kcircuits.core.lenses import Lenses
from kcircuits.core.topology import Topology

N_LAYERS, N_HEADS = 3, 4


@pytest.mark.parametrize(
    ("subject", "relation", "role"),
    [
        (1.01, 0.1, MOVER),
        (-1.01, 0.1, MOVER),
        (1.0, 0.1, MIXTURE),  # more than 10 times, not 10 times
        (0.1, -1.01, RELATION_HEAD),
        (0.1, 1.0, MIXTURE),
        (0.5, -0.5, MIXTURE),
        (0.3, 0.0, MOVER),
        (0.0, 0.3, RELATION_HEAD),
        (MIN_CONTRIBUTION, 0.0, MOVER),
        (0.99 * MIN_CONTRIBUTION, 0.0, NO_ROLE),
        (0.06, 0.06, NO_ROLE),
        (0.0, 0.0, NO_ROLE),
        (np.nan, 1.0, NO_ROLE),
    ],
)
def test_a_role_is_the_ratio_of_what_is_read(subject: float, relation: float, role: int) -> None:
    # What is read elsewhere has no say.
    assert head_roles(np.array([subject, relation, 9.0, -9.0])) == role


def slow_halves(values: np.ndarray) -> list[list[np.ndarray]]:
    """Roles [split][half] from means over the half's prompts."""
    return [
        [head_roles(values[[p for p in range(len(values)) if second[p] == half]].mean(0))
         for half in (False, True)]
        for second in split_halves(len(values))
    ]  # fmt: skip


def noisy(seed: int, n_epochs: int, n_prompts: int, spread: float = 0.15) -> np.ndarray:
    rng = np.random.default_rng(seed)
    signal = rng.normal(0, 0.3, (1, 1, N_LAYERS, N_HEADS, 4)) * rng.choice([0, 1], (1, 1, 3, 4, 4))
    noise = rng.normal(0, spread, (n_epochs, n_prompts, N_LAYERS, N_HEADS, 4))
    return signal + noise


@pytest.mark.parametrize("n_prompts", [2, 5, 8])
def test_counts_and_steps_equal_their_slow_twins(n_prompts: int) -> None:
    values = noisy(1, 2, n_prompts)
    roles = fact_roles(values)
    counts = count_roles(roles, values.mean(1))
    step = role_step(roles, 0, 1)
    seen = 0
    for r in range(len(ROLES)):
        before, after = (slow_halves(values[epoch]) for epoch in range(2))
        for epoch, splits in enumerate((before, after)):
            of_mean = head_roles(values[epoch].mean(0))
            mine = [place for place in np.ndindex(of_mean.shape) if of_mean[place] == r]
            assert counts.heads[epoch, r] == len(mine)
            lowers = [place for place in mine if values[epoch].mean(0)[place][:2].sum() < 0]
            assert counts.against[epoch, r] == len(lowers)
            both = [((a == r) & (b == r)).sum() for a, b in splits]
            assert counts.replicated[epoch, r] == pytest.approx(np.mean(both))
            chance = [(a == r).sum() * (b == r).sum() / a.size for a, b in splits]
            assert counts.chance[epoch, r] == pytest.approx(np.mean(chance))
        for place in product(range(N_LAYERS), range(N_HEADS)):
            found = {"acquired": 0.0, "lost": 0.0, "noise": 0.0}
            for s, t in zip(before, after, strict=True):
                moves = [int(t[half][place] == r) - int(s[half][place] == r) for half in range(2)]
                found["acquired"] += moves == [1, 1]
                found["lost"] += moves == [-1, -1]
                found["noise"] += (sorted(moves) == [-1, 1]) / 2
            for name, total in found.items():
                assert getattr(step, name)[r][place] == pytest.approx(total / len(before))
            seen += found["acquired"] + found["lost"] + found["noise"] > 0
    assert seen > 0


def test_noise_is_what_no_change_gives() -> None:
    """The same truth at both epochs: acquired, lost and noise agree on average."""
    totals = np.zeros(3)
    for seed in range(300):
        step = role_step(fact_roles(noisy(seed, 2, 8)), 0, 1)
        totals += [step.acquired.sum(), step.lost.sum(), step.noise.sum()]
    acquired, lost, noise = totals / 300
    assert noise > 0.1
    assert acquired == pytest.approx(noise, rel=0.15)
    assert lost == pytest.approx(noise, rel=0.15)


def test_a_planted_change_of_role_is_found() -> None:
    """One head becomes a mover, one stops being a relation head; the others stay as they are."""
    values = noisy(3, 2, 8, spread=0.01)
    values[:, :, 0, :2] = 0
    values[1, :, 0, 0, 0] = 1.0
    values[0, :, 0, 1, 1] = 1.0
    step = role_step(fact_roles(values), 0, 1)
    assert step.acquired[MOVER, 0, 0] == 1
    assert step.lost[RELATION_HEAD, 0, 1] == 1
    assert step.acquired[MOVER, 0, 1] == step.lost[MOVER, 0, 0] == 0
    assert step.acquired[MOVER].sum() == pytest.approx(1, abs=0.5)
    assert step.noise[:, 0, :2].sum() == 0
    # A change that half of the prompts show alone is none.
    values[1, 4:, 0, 0, 0] = 0.0
    assert role_step(fact_roles(values), 0, 1).acquired[MOVER, 0, 0] < 1


def test_the_same_values_change_nothing() -> None:
    values = np.repeat(noisy(4, 1, 8), 2, 0)
    step = role_step(fact_roles(values), 0, 1)
    assert max(step.acquired.max(), step.lost.max(), step.noise.max()) == 0


def test_one_prompt_has_no_halves() -> None:
    values = noisy(5, 2, 1)
    roles = fact_roles(values)
    assert np.isnan(count_roles(roles, values.mean(1)).replicated).all()
    assert np.isnan(role_step(roles, 0, 1).acquired).all()
    assert (roles.role == head_roles(values[:, 0])).all()


def made(values: np.ndarray, n_tokens: Any, seed: int = 0) -> Lenses:
    """Lenses of one fact with given contributions to the target."""
    rng = np.random.default_rng(seed)
    n_prompts = len(values)
    heads = np.stack([values, 2 * values], 1)
    shape = (n_prompts, N_LAYERS, N_HEADS)
    return Lenses(
        topology=Topology(n_layers=N_LAYERS, n_heads=N_HEADS),
        checkpoint="c",
        relation="text",
        fact_ids=("f",),
        fact_idx=np.zeros(n_prompts, dtype=np.int64),
        prompt_idx=np.arange(n_prompts),
        n_tokens=np.asarray(n_tokens),
        heads=heads,
        mlps=rng.normal(size=(n_prompts, 2, N_LAYERS)),
        embedding=rng.normal(size=(n_prompts, 2)),
        constant=rng.normal(size=(n_prompts, 2)),
        mean_logit=rng.normal(size=n_prompts),
        attention=rng.dirichlet(np.ones(4), shape),
        logprob=-rng.random((n_prompts, N_LAYERS + 1)),
        rank=rng.integers(1, 9, (n_prompts, N_LAYERS + 1)),
    )


def test_a_fact_is_the_mean_over_its_prompts() -> None:
    values = noisy(6, 2, 5)
    epochs = [made(v, [[2, 3, 1, 1]] * 5, seed) for seed, v in enumerate(values)]
    found = fact_lenses(epochs)
    for e, lenses in enumerate(epochs):
        np.testing.assert_allclose(found.heads[e], lenses.heads[:, 0].mean(0))
        np.testing.assert_allclose(found.differences[e], lenses.heads[:, 1].sum(-1).mean(0))
        whole = lenses.heads[:, 0].sum(-1)
        np.testing.assert_allclose(found.head_errors[e], whole.std(0, ddof=1) / 5**0.5)
        np.testing.assert_allclose(found.attention[e], lenses.attention.mean(0))
        np.testing.assert_allclose(found.mlps[e], lenses.mlps[:, 0].mean(0))
        np.testing.assert_allclose(found.embedding[e], lenses.embedding[:, 0].mean())
        np.testing.assert_allclose(found.constant[e], lenses.constant[:, 0].mean())
        np.testing.assert_allclose(found.logprob[e], lenses.logprob.mean(0))
        np.testing.assert_allclose(found.logprob_errors[e], lenses.logprob.std(0, ddof=1) / 5**0.5)
        np.testing.assert_allclose(found.prob[e], np.exp(lenses.logprob).mean(0))
        np.testing.assert_allclose(found.log_rank[e], np.log(lenses.rank).mean(0))
    assert (found.roles.role == head_roles(values.mean(1))).all()
    assert (found.n_prompts, found.n_role_prompts) == (5, 5)


def test_prompts_without_subject_or_relation_tell_no_role() -> None:
    """A ratio to positions that are not there would make every head a mover."""
    values = noisy(7, 1, 4)
    tokens = [[2, 3, 1, 1], [2, 0, 1, 1], [0, 3, 1, 1], [2, 3, 1, 1]]
    found = fact_lenses([made(values[0], tokens)])
    assert found.n_role_prompts == 2
    assert (found.roles.role[0] == head_roles(values[0, [0, 3]].mean(0))).all()
    np.testing.assert_allclose(found.heads[0], values[0].mean(0))  # the means are over all
    nothing = fact_lenses([made(values[0], [[2, 0, 1, 1]] * 4)])
    assert nothing.n_role_prompts == 0
    assert (nothing.roles.role == NO_ROLE).all()
