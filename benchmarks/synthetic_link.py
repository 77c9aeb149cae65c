"""Training runs with invented turnover and knowledge, where it is known whether they are linked.

Turnover and forgetting both drift over the epochs, differ between strata and between entities
(some are restless, some are forgetful; the one says nothing of the other, and both carry over to
the other training seeds), and depend on how safely a fact is known. None of this is a link of
turnover with the forgetting that follows; ``link`` is.
"""

import numpy as np

from kcircuits.analysis.link.trajectories import Trajectories

N_CELLS = 4


def simulate_runs(
    *,
    seed: int,
    n_runs: int = 3,
    n_entities: int = 60,
    facts_per_entity: int = 1,
    n_epochs: int = 9,
    link: float = 0.0,
    drift: float = 1.0,
    frailty: float = 1.0,
    confounding: float = 1.0,
    unknown_noise: float = 2.0,
    forgetting: float = -1.5,
) -> list[Trajectories]:
    """Training runs of the same facts.

    Args:
        seed: Of all draws.
        n_runs: Training seeds.
        n_entities: Entities, dealt out to four cells.
        facts_per_entity: Facts of each.
        n_epochs: Epochs.
        link: Log odds of forgetting that one standard deviation of a fact's own turnover adds.
        drift: Of turnover and of forgetting over epochs, half of it each cell's own, and between
            cells.
        frailty: Spread of the entities' own turnover and forgetting, half of it shared by runs.
        confounding: Of turnover and of forgetting by the margin.
        unknown_noise: Spread of the turnover of facts not known, relative to that of known ones.
        forgetting: Log odds of forgetting at the average fact.
    """
    rng = np.random.default_rng(seed)
    n_facts = n_entities * facts_per_entity
    entity = np.repeat(np.arange(n_entities), facts_per_entity)
    shared = frailty * np.sqrt(0.5) * rng.standard_normal((2, n_entities))
    runs: list[Trajectories] = []
    for _ in range(n_runs):
        own = shared + frailty * np.sqrt(0.5) * rng.standard_normal((2, n_entities))
        restless, forgetful = own[:, entity]
        cell = (entity % N_CELLS - 1.5) / 1.5
        margin = rng.standard_normal((n_facts, n_epochs))
        waves = drift * np.cumsum(rng.standard_normal((N_CELLS + 1, n_epochs)), axis=1) / 2
        wave = np.sqrt(0.5) * (waves[:1] + waves[1:])[entity % N_CELLS]
        noise = rng.standard_normal((n_facts, n_epochs - 1))
        is_known = np.zeros((n_facts, n_epochs), dtype=bool)
        turnover = np.zeros((n_facts, n_epochs - 1))
        for t in range(1, n_epochs):
            before, before_that = is_known[:, t - 1], is_known[:, max(t - 2, 0)]
            odds = (
                forgetting + wave[:, t] + drift * cell + forgetful - confounding * margin[:, t - 1]
            )
            if t > 1:  # the step that led to the epoch before
                odds = odds + link * noise[:, t - 2] * (before & before_that)
            is_lost = rng.random(n_facts) < 1 / (1 + np.exp(-odds))
            is_learned = rng.random(n_facts) < 0.35
            is_known[:, t] = np.where(before, ~is_lost, is_learned)
        for t in range(n_epochs - 1):
            both = is_known[:, t] & is_known[:, t + 1]
            level = wave[:, min(t + 2, n_epochs - 1)] + drift * cell + restless
            level = level - confounding * margin[:, t + 1]
            turnover[:, t] = np.where(both, level + noise[:, t], unknown_noise * noise[:, t] + 2)
        ceiling = np.clip(0.6 + 0.05 * rng.standard_normal(turnover.shape), 0.3, 1)
        runs.append(
            Trajectories(
                k_own=np.full(is_known.shape, 0.6),
                k_st=ceiling - 0.05 * turnover,
                ceiling=ceiling,
                is_known=is_known,
                margin=margin[:, :, None],
                entities=tuple(f"entity {i}" for i in entity),
                cells=tuple(f"cell {i % N_CELLS}" for i in entity),
                relations=tuple(str(i % facts_per_entity) for i in range(n_facts)),
            )
        )
    return runs
