"""A circuit that moves, planted twice: in a model written by hand, and in the run's own scores.

In the model, the whole graph is one set of edges up to some epoch and another from then on, with
small weight noise at every epoch; prompts are scored as those of a run are. The step of the move,
and no other, must be called changed, and its gained and lost edges must be those planted.

In the run's scores, a fifth of each fact's circuit changes places with edges outside, prompt by
prompt; what noise there is between prompts stays as it is. An edge that the prompts do not agree
on before cannot be found lost; so the planted edges that could be found are counted apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from kcircuits.analysis.overlap.half_circuits import top_mask
from kcircuits.core.cell import Cell
from kcircuits.core.facts import Fact, Prompt
from kcircuits.io.run_record import FactRecord
from kcircuits.lab.ground_truth import WeightsModel
from kcircuits.lab.ground_truth.moving import MovingCircuit, build_moving
from kcircuits.study.controls.bench import Bench, score_cells
from kcircuits.study.controls.control import Check, Outcome, count_verdicts, number_text
from kcircuits.study.diff.diff import Diff
from kcircuits.study.diff.fact_diff import FactDiff
from kcircuits.study.diff.tables import STATUSES, replicated
from kcircuits.sweep.request import make_settings

N_EPOCHS, N_FACTS, N_PROMPTS = 5, 12, 8
METHOD = "eap-ig-inputs"
# Of each matrix's spread: edges outside the circuits get scores, smaller than those inside.
NOISE = 0.001
MOVED = 0.2
MIN_FOUND = 0.9
# The hand-written model has edges that matter less than the noise.
MIN_RECALL_IN_NOISE = 0.8


@dataclass(frozen=True, kw_only=True)
class Found:
    """Edges found of those planted, over all facts.

    Attributes:
        n_planted: Edges planted, gained and lost.
        n_reachable: Of them, those that the prompts agree on.
        n_found: Edges that the diff gives as gained or lost.
        n_right: Of them, those planted, each as what it is.
    """

    n_planted: int
    n_reachable: int
    n_found: int
    n_right: int

    @property
    def precision(self) -> float:
        """Share of the edges found that were planted; 0 where none is found."""
        return self.n_right / self.n_found if self.n_found else 0.0

    @property
    def recall(self) -> float:
        """Share of the planted edges that could be found that were."""
        return self.n_right / self.n_reachable if self.n_reachable else 0.0


def control(bench: Bench) -> Outcome:
    """Plants a move in a model, then one in the run's scores."""
    moves_at = int(np.random.default_rng(bench.seed).integers(1, N_EPOCHS))
    moving = build_moving(
        bench.seed,
        n_epochs=N_EPOCHS,
        moves_at=moves_at,
        n_facts=N_FACTS,
        n_prompts=N_PROMPTS,
        noise=NOISE,
    )
    steps = moving_steps(moving)
    stored = bench.stored(only_known=True)
    moved, edges = move_edges(stored, MOVED, np.random.default_rng(bench.seed))
    diff = bench.diff(stored, moved)
    n_edges = int(moving.before.sum())
    return Outcome(
        did=f"planted a circuit of {n_edges} edges that moves at epoch {moves_at} of {N_EPOCHS} in "
        f"a model written by hand; let {MOVED:.0%} of the circuit of each of {len(stored)} facts "
        f"change places with edges outside in the scores of {bench.epoch} (seed {bench.seed})",
        checks=(
            steps_check(steps, moves_at),
            edges_check(found_in_model(steps[moves_at - 1], moving), MIN_RECALL_IN_NOISE),
            facts_check(diff),
            edges_check(found_in_scores(diff, edges, stored)),
        ),
        rows=[
            {
                "step": f"{one.epochs[0]} -> {one.epochs[1]}",
                **{name: one.rows[0][name] for name in ("turnover", "verdict", "gained", "lost")},
            }
            for one in (*steps, diff)
        ],
    )


def moving_steps(moving: MovingCircuit) -> list[Diff]:
    """The diffs between consecutive epochs of a planted model."""
    n_edges = int(moving.before.sum())
    settings = make_settings(METHOD, n_edges=n_edges)
    facts = [_fact(name) for name in moving.batch.fact_ids]
    records = [FactRecord(fact=fact, hash=fact.content_hash) for fact in facts]
    epochs = [
        score_cells(
            WeightsModel(weights, f"planted {epoch}"), moving.batch, records, settings, n_edges
        )
        for epoch, weights in enumerate(moving.weights)
    ]
    return [
        Diff.from_cells(*pair, epochs=(f"planted {i}", f"planted {i + 1}"), facts=facts)
        for i, pair in enumerate(pairwise(epochs))
    ]


def move_edges(
    cells: Sequence[Cell], share: float, rng: np.random.Generator
) -> tuple[list[Cell], dict[str, Int[np.ndarray, "2 moved"]]]:
    """Exchanges a share of each circuit with edges outside, in the scores of every prompt.

    Returns:
        The cells, and for each fact the flat indices of the edges that came and that went.
    """
    moved: list[Cell] = []
    edges: dict[str, Int[np.ndarray, "2 moved"]] = {}
    for cell in cells:
        size = np.abs(cell.prompt_scores.mean(0))[None]
        inside = top_mask(size, cell.n_edges)[0]
        n_moved = round(share * int(inside.sum()))
        lost = rng.choice(np.flatnonzero(inside), n_moved, replace=False)
        gained = rng.choice(np.flatnonzero(~inside), n_moved, replace=False)
        order = np.arange(len(inside))
        order[lost], order[gained] = gained, lost
        moved.append(
            replace(cell, prompt_scores=cell.prompt_scores[:, order], mean=None, sparse_mean=None)
        )
        edges[cell.fact_id] = cell.candidates[np.stack([gained, lost])]
    return moved, edges


def found_in_model(diff: Diff, moving: MovingCircuit) -> Found:
    """Edges found at the step of the move of a planted model, where every edge can be found."""
    gained, lost = moving.after & ~moving.before, moving.before & ~moving.after
    planted = np.stack([np.flatnonzero(gained), np.flatnonzero(lost)])
    reachable = np.ones(planted.shape[1], dtype=bool)
    return _total([_found(one, planted, reachable) for one in diff.fact_diffs])


def found_in_scores(
    diff: Diff, planted: dict[str, Int[np.ndarray, "2 moved"]], before: Sequence[Cell]
) -> Found:
    """Edges found of those that changed places in the scores of a run."""
    still = Diff.from_cells(
        before, before, epochs=diff.epochs, facts=[one.fact for one in diff.fact_diffs]
    )
    counts: list[Found] = []
    for one, same in zip(diff.fact_diffs, still.fact_diffs, strict=True):
        edges = planted[one.fact.id]
        _, places = replicated(same)
        counts.append(_found(one, edges, np.isin(edges[1], same.candidates[places])))
    return _total(counts)


def steps_check(steps: Sequence[Diff], moves_at: int) -> Check:
    """That the step of the move is the one that changed."""
    changed = [i + 1 for i, step in enumerate(steps) if step.rows[0]["verdict"] == "changed"]
    return Check(
        expected=f"changed at epoch {moves_at} and at no other",
        measured=f"changed at {', '.join(map(str, changed)) or 'none'}",
        is_met=changed == [moves_at],
    )


def facts_check(diff: Diff) -> Check:
    """That a planted move is found in most facts."""
    n_changed, n_tested, obstacle = count_verdicts(diff)
    turnover = number_text(diff.rows[0]["turnover"])
    return Check(
        expected=f"changed in at least {MIN_FOUND:.0%} of the facts",
        measured=f"{n_changed} of {n_tested} facts tested; turnover {turnover}",
        is_met=None if obstacle else n_changed >= MIN_FOUND * n_tested,
        reason=obstacle,
    )


def edges_check(found: Found, min_recall: float = MIN_FOUND) -> Check:
    """That the edges gained and lost are those planted."""
    return Check(
        expected=f"gained and lost edges are the planted ones: precision at least {MIN_FOUND:.0%}, "
        f"recall at least {min_recall:.0%}",
        measured=f"precision {found.precision:.3f} of {found.n_found} edges found, recall "
        f"{found.recall:.3f} of {found.n_reachable} that could be ({found.n_planted} planted)",
        is_met=found.precision >= MIN_FOUND and found.recall >= min_recall
        if found.n_reachable
        else None,
        reason="" if found.n_reachable else "the prompts agree on none of the planted edges",
    )


def _found(
    one: FactDiff, planted: Int[np.ndarray, "2 moved"], reachable: Bool[np.ndarray, " moved"]
) -> Found:
    status, places = replicated(one)
    edges = one.candidates[places]
    found = [edges[status == STATUSES.index(word)] for word in ("gained", "lost")]
    return Found(
        n_planted=planted.size,
        n_reachable=2 * int(reachable.sum()),
        n_found=sum(map(len, found)),
        n_right=sum(int(np.isin(*pair).sum()) for pair in zip(found, planted, strict=True)),
    )


def _total(counts: Sequence[Found]) -> Found:
    names = Found.__dataclass_fields__
    return Found(**{name: sum(getattr(one, name) for one in counts) for name in names})


def _fact(name: str) -> Fact:
    """A fact whose prompts are in token ids; their texts only tell them apart."""
    prompts: list[Any] = [
        Prompt(clean=f"{name} {i}", corrupt=f"not {name} {i}", target=" a", foil=" b")
        for i in range(N_PROMPTS)
    ]
    return Fact(id=name, subject=name, relation="planted", object="a", prompts=tuple(prompts))
