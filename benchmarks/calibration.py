"""False alarms and power of the verdicts on scores of real models.

No change: one checkpoint, its prompts labelled as two epochs.

- ``prompts``: other prompts at the two epochs, drawn fact by fact
- ``templates``: the same, all facts of a relation with the same templates: noise that they share
- ``labels``: the labels of two prompt sets swapped prompt by prompt at random
- ``noise``: as ``prompts``; at one epoch what sets a prompt apart from its fact's mean is 2.3 times
  as large
- ``seeds``: two of six seeds of edge pruning, and three quarters of the facts, drawn anew

Change: as ``prompts``, and at one epoch a share of the circuit's edges changes places with edges
outside it, in a share of the facts. 8 prompts a fact and epoch throughout.

    python benchmarks/calibration.py --work DIR [--repeats 200] [--power-repeats 40] [--seeds 6]
        [--out FILE]
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from calibration_scores import FactScores, Scores, pruning_scores, real_scores
from record import measurement, parser, report
from tqdm import tqdm

from kcircuits.analysis.overlap.corrected import edge_items, node_items
from kcircuits.analysis.overlap.turnover import compare_fact, pooled_turnover
from kcircuits.analysis.overlap.verdict import judge_facts, judge_stratum
from kcircuits.core.parallel import ordered_map

N_PROMPTS, LARGER, FACTS_DRAWN = 8, 2.3, 0.75
ALARMS, POWER = 0.05, 0.95
MOVES = (0.05, 0.1, 0.2)
MOVED_FACTS = (0.1, 0.25, 0.5, 0.8)
# A step: scores [2, prompt, candidate] of each fact, and the name of each prompt's template.
Step = list[tuple[FactScores, np.ndarray, tuple[str, ...]]]


@dataclass(frozen=True)
class Outcome:
    """What was said of one step.

    Attributes:
        tau: Pooled turnover.
        stratum: The facts together were called changed.
        facts: Which facts were.
    """

    tau: float
    stratum: bool
    facts: np.ndarray


def judge(step: Step, scores: Scores) -> Outcome:
    """Both verdicts, as ``kcircuits diff`` gives them."""

    def compare(one: tuple[FactScores, np.ndarray, tuple[str, ...]]):
        edges = one[0].candidates
        kinds = {
            "edge": edge_items(scores.topology, edges),
            "node": node_items(scores.topology, edges),
        }
        return compare_fact(one[1].astype(np.float32), scores.n_edges, kinds)

    facts = list(ordered_map(compare, step))
    verdict = judge_stratum(facts, [f.subject for f, *_ in step], [t for *_, t in step])
    each = judge_facts(facts, [None] * len(facts))
    changed = np.array([one.word == "changed" for one in each])
    return Outcome(pooled_turnover(facts), verdict.word == "changed", changed)


def drawn(scores: Scores, rng: np.random.Generator, *, together: bool = False) -> Step:
    """Disjoint prompts of one checkpoint as two epochs; ``together``: by relation."""
    orders: dict[str, np.ndarray] = {}
    step = []
    for i, fact in enumerate(scores.facts):
        key = fact.relation if together else str(i)
        order = orders.setdefault(key, rng.permutation(len(fact.values))[: 2 * N_PROMPTS])
        names = tuple(f"{key} {k}" for k in range(N_PROMPTS))
        step.append((fact, fact.values[order.reshape(2, N_PROMPTS)], names))
    return step


def swapped(step: Step, rng: np.random.Generator) -> Step:
    """Labels of epochs exchanged prompt by prompt."""
    new = []
    for fact, values, names in step:
        swap = rng.random(N_PROMPTS) < 0.5
        new.append((fact, np.where(swap[:, None], values[::-1], values), names))
    return new


def noisier(step: Step) -> Step:
    """What sets prompts apart is larger at the second epoch."""
    new = []
    for fact, values, names in step:
        mean = fact.values.mean(0)
        new.append((fact, np.stack([values[0], mean + LARGER * (values[1] - mean)]), names))
    return new


def moved(step: Step, scores: Scores, rng: np.random.Generator, move: float, share: float) -> Step:
    """Edges of the circuit change places with others at the second epoch, in the first facts."""
    n_moved = round(move * scores.n_edges)
    new = step[:]
    for i in range(round(share * len(step))):
        fact, values, names = step[i]
        order = np.argsort(-np.abs(fact.values.mean(0)))
        lost = rng.choice(order[: scores.n_edges], n_moved, replace=False)
        gained = rng.choice(order[scores.n_edges :], n_moved, replace=False)
        after = values[1].copy()
        after[:, lost], after[:, gained] = values[1][:, gained], values[1][:, lost]
        new[i] = (fact, np.stack([values[0], after]), names)
    return new


def alarms(name: str, make: Callable[[int], Step], scores: Scores, n_repeats: int):
    """How often no change is called change: of the facts together, and of any single fact."""
    found = [judge(make(seed), scores) for seed in tqdm(range(n_repeats), desc=name)]
    details = {
        "repeats": n_repeats,
        "facts": len(found[0].facts),
        "turnover": float(np.mean([one.tau for one in found])),
        "turnover_largest": float(np.max([one.tau for one in found])),
    }
    any_fact = [float(one.facts.any()) for one in found]
    each = [float(one.facts.mean()) for one in found]
    rates = {
        "the facts together": [float(one.stratum) for one in found],
        "any fact": any_fact,
        "a fact": each,
    }
    return [
        _rate(f"false alarms, {name}: {of}", values, ALARMS, details)
        for of, values in rates.items()
    ]


def power(scores: Scores, n_repeats: int):
    """How often change is called change."""
    results = []
    for share in MOVED_FACTS:
        for move in MOVES:
            found = []
            for seed in tqdm(range(n_repeats), desc=f"{move:.0%} in {share:.0%} of the facts"):
                rng = np.random.default_rng([seed, 1])
                step = moved(drawn(scores, rng), scores, rng, move, share)
                found.append(judge(step, scores))
            n_moved = round(share * len(scores.facts))
            details = {
                "repeats": n_repeats,
                "turnover": float(np.mean([one.tau for one in found])),
                "facts found": float(np.mean([one.facts[:n_moved].mean() for one in found])),
                "other facts": float(np.mean([one.facts[n_moved:].mean() for one in found])),
            }
            limit = -POWER if (share, move) == (MOVED_FACTS[-1], MOVES[-1]) else None
            name = f"power, {move:.0%} of the edges in {share:.0%} of the facts"
            results.append(_rate(name, [float(one.stratum) for one in found], limit, details))
    return results


def _rate(name: str, values: Sequence[float], limit: float | None, details: dict) -> dict:
    """A share of repeats: the mean, as ``record.measurement`` has a median."""
    made = measurement(name, [float(np.mean(values))], unit="share", limit=limit, **details)
    return {key: value for key, value in made.items() if key not in ("min", "max")}


def main() -> int:
    options = parser("False alarms and power of the verdicts on scores of real models")
    options.add_argument("--work", type=Path, required=True, help="where scores are kept")
    options.add_argument("--repeats", type=int, default=200)
    options.add_argument("--power-repeats", type=int, default=40)
    options.add_argument("--seeds", type=int, default=6, help="of edge pruning")
    args = options.parse_args()
    scores = real_scores(args.work)
    gates = pruning_scores(args.work, args.seeds)

    def draw(seed: int, together: bool = False) -> Step:
        return drawn(scores, np.random.default_rng([seed, 0]), together=together)

    def seeds(seed: int) -> Step:
        rng = np.random.default_rng([seed, 3])
        pair = rng.choice(args.seeds, 2, replace=False)
        some = rng.permutation(len(gates.facts))[: round(FACTS_DRAWN * len(gates.facts))]
        return [
            (
                gates.facts[i],
                gates.facts[i].values[pair],
                tuple(f"{i} {k}" for k in range(N_PROMPTS)),
            )
            for i in some.tolist()
        ]

    controls: dict[str, tuple[Callable[[int], Step], Scores]] = {
        "prompts": (draw, scores),
        "templates": (lambda seed: draw(seed, together=True), scores),
        "labels": (lambda seed: swapped(draw(0), np.random.default_rng([seed, 2])), scores),
        "noise": (lambda seed: noisier(draw(seed)), scores),
        "seeds": (seeds, gates),
    }
    results = []
    for name, (make, of) in controls.items():
        results += alarms(name, make, of, args.repeats)
    results += power(scores, args.power_repeats)
    return report("calibration", results, args.out)


if __name__ == "__main__":
    sys.exit(main())
