"""The link of circuits to knowledge, as a notebook or a verb holds it; needs no torch.

Runs of one model and strategy are the training seeds of one question: they are tested together and
one by one. Every number is described in ``analysis.link``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.analysis.link.turnover_forgetting import N_PERMUTATIONS
from kcircuits.errors import UsageError
from kcircuits.study.alignment import check_comparable
from kcircuits.study.dynamics.sources import check_seed
from kcircuits.study.link import tables as tables
from kcircuits.study.link.edges import Distinction, distinguish_runs
from kcircuits.study.link.sources import WITHIN, LinkSource, read_source
from kcircuits.study.run import Run, open_run
from kcircuits.study.strata import require_stratum

if TYPE_CHECKING:
    import plotly.graph_objects as go

Row = dict[str, Any]
SCHEMA = "kcircuits.link/1"


@dataclass(frozen=True, kw_only=True)
class Link:
    """What turnover of circuits has to do with forgetting; made by ``link``.

    Attributes:
        sources: The training runs.
        by: Stratum key of the rows; None for all facts together.
        k: Epochs that a fact must stay known to the end to be consolidated.
        within: Strata within which entities exchange their trajectories.
        n_permutations: Exchanges drawn by each test.
        seed: Of the draws.
    """

    sources: tuple[LinkSource, ...]
    by: str | None
    k: int
    within: tuple[str, ...]
    n_permutations: int
    seed: int

    @cached_property
    def groups(self) -> dict[tuple[str | None, str | None], list[LinkSource]]:
        """The runs of each model and strategy."""
        found: dict[tuple[str | None, str | None], list[LinkSource]] = {}
        for source in self.sources:
            found.setdefault((source.model, source.strategy), []).append(source)
        return found

    @property
    def runs(self) -> list[Row]:
        """What was read of each run."""
        return [tables.run_row(source) for source in self.sources]

    @cached_property
    def tests(self) -> list[tables.StratumTest]:
        """The test of each model, strategy and stratum, on all its runs and on each alone."""
        return [
            test
            for group in self.groups.values()
            for test in tables.stratum_tests(
                group, self.by, n_permutations=self.n_permutations, seed=self.seed
            )
        ]

    @cached_property
    def rows(self) -> list[Row]:
        """Turnover before forgetting, all training seeds of a stratum together; with a verdict.

        Fields: ``model, strategy, seeds, stratum, at_risk, forgotten, entities,
        forgotten_entities``; ``auroc`` (adjusted), ``auroc_raw``, ``tau_difference``, each with
        ``_low`` and ``_high``; ``tau_forgotten, tau_retained, ceiling_forgotten,
        ceiling_retained``; ``z, p, p_adjusted`` (Holm over strata), ``distinct`` (exchanges that
        exist; None where no float holds the number), ``verdict, reason``.
        """
        return [test.row() for test in self.tests]

    @cached_property
    def seeds(self) -> list[Row]:
        """The same numbers for each training run alone, which is no claim and has no verdict."""
        return [row for test in self.tests for row in test.seed_rows()]

    @cached_property
    def steps(self) -> list[Row]:
        """Turnover of each step, of facts forgotten next and of those retained."""
        return [row for group in self.groups.values() for row in tables.step_rows(group)]

    @cached_property
    def same_step(self) -> list[Row]:
        """Turnover by what happened to the fact in the same step: descriptive."""
        return [
            row for group in self.groups.values() for row in tables.same_step_rows(group, self.by)
        ]

    @cached_property
    def distinctions(self) -> list[Distinction]:
        """Consolidated against transient facts, of each model and strategy: edges, then nodes."""
        return [
            found
            for group in self.groups.values()
            for found in distinguish_runs(
                group, self.k, n_permutations=self.n_permutations, seed=self.seed
            )
        ]

    def plot(self) -> "go.Figure":
        """Turnover of each step before forgetting, beside that of retained facts."""
        from kcircuits.plots.link import steps_figure  # plotly takes longer than the rest

        return steps_figure(self.steps)

    def to_json(self, *, n_edges: int | None = None) -> Row:
        """The document that ``kcircuits link --json`` prints.

        Args:
            n_edges: At most that many edges, and nodes, of each model and strategy.
        """
        return {
            "schema": SCHEMA,
            "by": self.by,
            "consolidated": self.k,
            "within": list(self.within),
            "permutations": self.n_permutations,
            "runs": self.runs,
            "rows": self.rows,
            "seeds": self.seeds,
            "steps": self.steps,
            "same_step": self.same_step,
            "distinctions": [found.row() for found in self.distinctions],
            "edges": self._items("edge", n_edges),
            "nodes": self._items("node", n_edges),
        }

    def _items(self, level: str, n: int | None) -> list[Row]:
        return [
            row for found in self.distinctions if found.level == level for row in found.items(n)
        ]


def link(
    runs: Iterable[Run | str | Path],
    *,
    by: str | None = None,
    k: int = 2,
    within: Sequence[str] | None = None,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
    method: str | None = None,
) -> Link:
    """Whether the circuits of facts change before the facts are forgotten, and which edges last.

    Args:
        runs: Runs or their folders; those of one model and strategy are its training seeds.
        by: Stratum key (or ``relation``) to group facts by.
        k: Epochs that a fact must stay known to the end to be consolidated.
        within: Strata within which entities exchange their trajectories; default those of split,
            frequency and exposure that the facts have.
        n_permutations: Exchanges drawn by each test.
        seed: Of the draws.
        method: Of folders with results by several methods, the one to read.

    Raises:
        UsageError: No run, one run twice, or an option that cannot be meant.
        IncomparableError: Runs of other methods, budgets or graphs; too few epochs.
        InputError: A probe is missing, or twice there.
    """
    for name, value in (("k", k), ("permutations", n_permutations)):
        if value < 1:
            raise UsageError(f"{name} is {value}; expected at least 1", field=name)
    check_seed(seed)
    opened = [run if isinstance(run, Run) else open_run(run, method=method) for run in runs]
    if not opened:
        raise UsageError("no run is named", field="run", hint="name a run folder")
    facts = [fact for run in opened for fact in run.facts]
    for key in (by, *(within or ())):
        require_stratum(key, facts)
    default = (key for key in WITHIN if any(key in fact.strata for fact in facts))
    keys = tuple(default if within is None else within)
    sources = tuple(read_source(run, keys) for run in opened)
    made = Link(
        sources=sources, by=by, k=k, within=keys, n_permutations=n_permutations, seed=seed
    )  # fmt: skip
    for group in made.groups.values():
        _check_seeds(group)
    return made


def _check_seeds(group: Sequence[LinkSource]) -> None:
    """Training seeds of one question: each once, scored alike."""
    seen: dict[Any, LinkSource] = {}
    for source in group:
        key = source.run.path.resolve() if source.seed is None else source.seed
        if key in seen:
            raise UsageError(
                f"{seen[key].run.path} and {source.run.path} both hold seed {source.seed} of "
                f"{source.strategy or source.run.name}; expected runs that differ in their seed",
                field="run",
                hint="leave one of them out",
            )
        seen[key] = source
    check_comparable([source.first_cell for source in group])
