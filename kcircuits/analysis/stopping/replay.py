"""A stopping rule on a finished run: what it picks, and what that is worth on other entities.

The best of many epochs looks better than it is when it is scored on the probes that chose it. So
entities (and items out of domain, where a run kept them) are split in halves: the rule, and the
best epoch in hindsight, choose on one half and are scored on the other; then the halves are
swapped and both scores averaged, over several seeded splits.

Source: METHODS.md section 7.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from kcircuits.analysis.dynamics.ood import ood_average
from kcircuits.analysis.dynamics.series import ProbeSeries, Skill, knowledge_values, select_facts
from kcircuits.analysis.dynamics.strata import trained_facts
from kcircuits.analysis.stopping.rule import History, StoppingRule
from kcircuits.errors import UsageError

N_SPLITS = 20
HINDSIGHT = "best in hindsight"


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Where a rule stopped.

    Attributes:
        pick: Place of the epoch that it keeps.
        spent: Place of the epoch after which training ended.
    """

    pick: int
    spent: int


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A rule on a finished run.

    Attributes:
        stop: What it does on all probes.
        picks: Epochs that it keeps when it chooses on halves, one per half.
        spent: Mean of the last epochs trained, over halves.
        knowledge: At the epoch kept, on the entities that did not choose; mean over halves.
        ood: Likewise; NaN where out-of-domain skills were not measured.
        cost: Knowledge of the best epoch in hindsight, chosen and scored alike, minus knowledge.
    """

    stop: Stop
    picks: tuple[float, ...]
    spent: float
    knowledge: float
    ood: float
    cost: float


def replay(rule: StoppingRule, history: History) -> Stop:
    """Asks a rule after each epoch until it stops or the run ends."""
    for n_epochs in range(1, len(history.epochs) + 1):
        decision = rule.decide(history.until(n_epochs))
        if decision.is_stop:
            return Stop(pick=decision.pick, spent=n_epochs - 1)
    return Stop(pick=decision.pick, spent=n_epochs - 1)


@dataclass(frozen=True, kw_only=True)
class SplitRun:
    """A finished run with its halves.

    Attributes:
        series: The run, facts that documents tell alone.
        turnover: Circuit turnover at each epoch; NaN where there is none.
        seed: Of the splits.
        n_splits: How many splits.
    """

    series: ProbeSeries
    turnover: Float[np.ndarray, " epoch"]
    seed: int = 0
    n_splits: int = N_SPLITS

    @cached_property
    def whole(self) -> History:
        """The history on all probes and items."""
        everyone = np.ones(len(self.series.fact_ids), dtype=bool)
        return self._history(everyone, self.series.skills)

    @cached_property
    def halves(self) -> list[tuple[History, History]]:
        """For each split and direction: the half to choose on, the half to score on."""
        names = np.array(sorted(set(self.series.entities)), dtype=object)
        if len(names) < 2:
            raise UsageError(
                f"{self.series.name} has {len(names)} entity; expected at least 2, to choose on "
                "some and score on others",
                field="facts",
                hint="give the facts file, whose subjects are the entities: --facts FILE",
            )
        generator = np.random.default_rng(self.seed)
        entities = np.array(self.series.entities, dtype=object)
        pairs: list[tuple[History, History]] = []
        for _ in range(self.n_splits):
            first = generator.permutation(len(names))[: len(names) // 2]
            is_first = np.isin(entities, names[first])
            items = {name: _item_half(s, generator) for name, s in self.series.skills.items()}
            sides = [
                self._history(facts, _skills_of(self.series.skills, items, side))
                for facts, side in ((is_first, True), (~is_first, False))
            ]
            pairs += [(sides[0], sides[1]), (sides[1], sides[0])]
        return pairs

    @property
    def has_item_halves(self) -> bool:
        """Whether out-of-domain items are split too; else both halves see the same accuracy."""
        skills = self.series.skills.values()
        return bool(skills) and all(skill.per_item is not None for skill in skills)

    def replay(self, rule: StoppingRule) -> Replay:
        """A rule, chosen and scored on different halves."""
        return self._scored(replay(rule, self.whole), [replay(rule, own) for own, _ in self.halves])

    def hindsight(self) -> Replay:
        """The best epoch in hindsight, chosen and scored on different halves."""
        return self._scored(_best(self.whole), [_best(own) for own, _ in self.halves])

    def _scored(self, stop: Stop, stops: Sequence[Stop]) -> Replay:
        others = [other for _, other in self.halves]
        knowledge = np.mean([o.knowledge[s.pick] for s, o in zip(stops, others, strict=True)])
        best = np.mean([other.knowledge[_best(own).pick] for own, other in self.halves])
        epochs = self.series.epochs
        return Replay(
            stop=stop,
            picks=tuple(float(epochs[s.pick]) for s in stops),
            spent=float(np.mean([epochs[s.spent] for s in stops])),
            knowledge=float(knowledge),
            ood=float(np.mean([o.ood[s.pick] for s, o in zip(stops, others, strict=True)])),
            cost=float(best - knowledge),
        )

    def _history(self, facts: Bool[np.ndarray, " fact"], skills: Mapping[str, Skill]) -> History:
        series = self.series
        return History(
            epochs=series.epochs,
            loss=series.loss,
            knowledge=self._values[facts].mean(0),
            ood=ood_average(skills, len(series.epochs)),
            turnover=self.turnover,
        )

    @cached_property
    def _values(self) -> Float[np.ndarray, "fact epoch"]:
        return knowledge_values(self.series)[1]


def split_run(
    series: ProbeSeries,
    turnover: Float[np.ndarray, " epoch"] | None = None,
    *,
    seed: int = 0,
    n_splits: int = N_SPLITS,
) -> SplitRun:
    """A finished run, ready to replay rules on; control and held-out facts are left out."""
    told = trained_facts(series)
    return SplitRun(
        series=select_facts(series, told) if told.any() else series,
        turnover=np.full(len(series.epochs), np.nan) if turnover is None else turnover,
        seed=seed,
        n_splits=n_splits,
    )


def _best(history: History) -> Stop:
    """Chosen with the whole run in sight: the first epoch of the best knowledge."""
    return Stop(pick=int(history.knowledge.argmax()), spent=len(history.epochs) - 1)


def _item_half(skill: Skill, generator: np.random.Generator) -> Bool[np.ndarray, " item"] | None:
    if skill.per_item is None or len(skill.per_item) < 2:
        return None
    n_items = len(skill.per_item)
    return np.isin(np.arange(n_items), generator.permutation(n_items)[: n_items // 2])


def _skills_of(
    skills: Mapping[str, Skill], halves: Mapping[str, Bool[np.ndarray, " item"] | None], side: bool
) -> dict[str, Skill]:
    """Skills by the items of one side; whole where items were not kept."""
    chosen: dict[str, Skill] = {}
    for name, skill in skills.items():
        half = halves[name]
        if half is None or skill.per_item is None:
            chosen[name] = skill
        else:
            items = skill.per_item[half if side else ~half]
            chosen[name] = replace(skill, accuracy=items.mean(0), per_item=items)
    return chosen
