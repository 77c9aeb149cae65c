"""The fact-steps at risk of forgetting as rows, and the ranks of their turnover under exchanges.

Rows go by run, by step, by fact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.link.trajectories import Trajectories


@dataclass(frozen=True, kw_only=True)
class RiskRows:
    """The fact-steps at risk of all runs.

    Attributes:
        is_forgotten: 1 where forgetting follows.
        entity_idx: Entity; the same one in all runs.
        step: The step, a number for each run and step.
        cell_step: The step and cell, likewise.
        margins: Midrank of each margin among the rows of the step, divided by their number.
        k_st: Overlap of the step.
        ceiling: Its ceiling c.
        k_own: Overlap of halves at both of its ends.
    """

    is_forgotten: Float[np.ndarray, " row"]
    entity_idx: Int[np.ndarray, " row"]
    step: Int[np.ndarray, " row"]
    cell_step: Int[np.ndarray, " row"]
    margins: Float[np.ndarray, "row measure"]
    k_st: Float[np.ndarray, " row"]
    ceiling: Float[np.ndarray, " row"]
    k_own: Float[np.ndarray, "row 2"]


def rows_at_risk(runs: Sequence[Trajectories]) -> RiskRows:
    """The rows of training runs."""
    columns: dict[str, list[np.ndarray]] = {}
    for place, run in enumerate(runs):
        step, fact = np.nonzero(run.is_at_risk.T)
        found = {
            "is_forgotten": run.is_forgotten[fact, step].astype(float),
            "entity": np.array(run.entities, dtype=object)[fact],
            "cell": np.array(run.cells, dtype=object)[fact],
            "run": np.full(len(fact), place),
            "step": step,
            "k_st": run.k_st[fact, step],
            "ceiling": run.ceiling[fact, step],
            "k_own": np.stack([run.k_own[fact, step], run.k_own[fact, step + 1]], axis=1),
            "margins": _ranks_within(run.margin[fact, step + 1], step),
        }
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
    rows = {name: np.concatenate(values) for name, values in columns.items()}
    step = _numbered(rows.pop("run"), rows.pop("step"))
    return RiskRows(
        entity_idx=_numbered(rows.pop("entity")),
        step=step,
        cell_step=_numbered(step, _numbered(rows.pop("cell"))),
        **rows,
    )


@dataclass(frozen=True, kw_only=True)
class TurnoverRanks:
    """Ranks the turnover that fact-steps at risk are paired with.

    Who is below whom among *all* facts of a run is counted once for each step; who of them is there
    then ranks all exchanges by one product.

    Attributes:
        at_risk: Of each run, the facts at risk in each step.
        below: Of each run and step, whether the second fact's turnover is below the first one's
            (half where they are equal), 0 for facts that are not compared.
        sizes: Of each run and step, how many are compared with each fact at risk, itself included.
    """

    at_risk: tuple[Bool[np.ndarray, "fact outcome"], ...]
    below: tuple[tuple[Float[np.ndarray, "fact fact"], ...], ...]
    sizes: tuple[tuple[Int[np.ndarray, " row"], ...], ...]

    @classmethod
    def of(cls, runs: Sequence[Trajectories], *, in_cells: bool) -> "TurnoverRanks":
        """Ranks within steps, or within steps and cells; exchanges must keep to the cells."""
        below: list[tuple[np.ndarray, ...]] = []
        sizes: list[tuple[np.ndarray, ...]] = []
        for run in runs:
            cells = _numbered(np.array(run.cells, dtype=object))
            is_compared = (
                (cells[:, None] == cells) if in_cells else np.ones((len(cells),) * 2, bool)
            )
            steps = range(run.is_at_risk.shape[1])
            below.append(
                tuple(
                    (_below(run.turnover[:, step]) * is_compared).astype(np.float32)
                    for step in steps
                )
            )
            there = [run.is_at_risk[:, step] for step in steps]
            sizes.append(tuple(is_compared[np.ix_(rows, rows)].sum(1) for rows in there))
        return cls(
            at_risk=tuple(run.is_at_risk for run in runs), below=tuple(below), sizes=tuple(sizes)
        )

    def observed(self) -> Float[np.ndarray, " row"]:
        """Midrank of each row's own turnover, divided by the number compared."""
        return self.paired([np.arange(len(at_risk))[None] for at_risk in self.at_risk])[0]

    def paired(
        self, taken: Sequence[Int[np.ndarray, "draw fact"]]
    ) -> Float[np.ndarray, "draw row"]:
        """The same with the turnover of other facts.

        Args:
            taken: Of each run, whose turnover each fact is paired with, in each draw.
        """
        columns = [np.zeros((len(taken[0]), 0))]
        for at_risk, below, sizes, whose in zip(
            self.at_risk, self.below, self.sizes, taken, strict=True
        ):
            for rows, table, n in zip(at_risk.T, below, sizes, strict=True):
                facts = whose[:, rows]
                is_there = np.zeros(whose.shape, dtype=np.float32)
                np.put_along_axis(is_there, facts, 1, axis=1)
                ranks = np.take_along_axis(is_there @ table.T, facts, 1)
                columns.append(ranks / n)
        return np.hstack(columns)


def dummies(labels: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row label"]:
    """One column for each number."""
    return (labels[:, None] == np.arange(labels.max(initial=-1) + 1)).astype(float)


def _numbered(*labels: np.ndarray) -> Int[np.ndarray, " row"]:
    """A number from 0 for each different label, or combination of numbers."""
    if len(labels) == 1:
        return np.unique(labels[0], return_inverse=True)[1]
    return np.unique(np.stack(labels), axis=1, return_inverse=True)[1].ravel()


def _ranks_within(
    values: Float[np.ndarray, "row measure"], step: Int[np.ndarray, " row"]
) -> Float[np.ndarray, "row measure"]:
    """Midranks of each measure among the rows of a step, divided by their number."""
    ranks = np.zeros(values.shape)
    for one in np.unique(step):
        rows = step == one
        ranks[rows] = _below(values[rows].T).mean(-1).T
    return ranks


def _below(values: Float[np.ndarray, "... item"]) -> Float[np.ndarray, "... item item"]:
    """1 where the second is below the first, half where they are equal."""
    first, second = values[..., :, None], values[..., None, :]
    return (first > second) + 0.5 * (first == second)
