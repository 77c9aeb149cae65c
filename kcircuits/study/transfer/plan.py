"""What a transfer has to run: which circuits of which facts on which weights, and what is due.

Circuits and facts are known by keys, so planning reads the index of the store and no scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from kcircuits.core.ablation import CONSTANT, Ablation
from kcircuits.core.facts import Fact
from kcircuits.core.keys import digest
from kcircuits.core.provenance import NUMERICS_VERSION
from kcircuits.errors import IncomparableError, UsageError
from kcircuits.io.judgements import FOLDER, FactJudgement, JudgementFile
from kcircuits.io.store import CellRow
from kcircuits.study.run import Run
from kcircuits.study.transfer.circuits import (
    CircuitSet,
    StratumSet,
    epoch_circuits,
    half_circuits,
    random_like,
    stratum_circuits,
)
from kcircuits.sweep.request import library_versions

Judgements = Mapping[str, FactJudgement]


class Label(NamedTuple):
    """Names a set of circuits: of an epoch, a half, a stratum; ``draw`` of the random ones."""

    kind: str
    name: str
    draw: int | None = None


@dataclass(frozen=True, kw_only=True)
class TransferPlan:
    """Which circuits of which facts run on which weights.

    Attributes:
        run: The run.
        facts: The facts, in its order.
        sources: Epochs that circuits come from.
        targets: Epochs whose weights they run on.
        by: Stratum key of circuits of strata; None for none.
        n_draws: Random circuits beside each circuit.
        seed: Of the random circuits.
        metric: What the circuits are judged by.
        ablation: What edges outside a circuit carry.
        device: Kind of device.
    """

    run: Run
    facts: tuple[Fact, ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    by: str | None
    n_draws: int
    seed: int
    metric: str
    ablation: Ablation
    device: str

    @cached_property
    def rows(self) -> dict[str, dict[str, CellRow]]:
        """The cells of the facts at each epoch, without those that failed.

        Raises:
            IncomparableError: Cells are missing.
        """
        found: dict[str, dict[str, CellRow]] = {}
        for epoch in dict.fromkeys((*self.sources, *self.targets)):
            rows = self.run.rows(epoch)
            missing = [fact.id for fact in self.facts if fact.id not in rows]
            if missing:
                n_there = len(self.facts) - len(missing)
                raise IncomparableError(
                    f"epoch {epoch} has {n_there} of {len(self.facts)} facts; {missing[0]} is "
                    "missing",
                    hint=f"run `kcircuits run --epochs {epoch}`, or leave the epoch out",
                )
            found[epoch] = {f.id: rows[f.id] for f in self.facts if not rows[f.id].is_failed}
        return found

    @cached_property
    def fact_keys(self) -> dict[str, str]:
        """Hash of what each fact says and of its tokens."""
        wanted = {fact.id for fact in self.facts}
        return {
            record.id: digest({"fact": record.hash, "tokens": record.tokens})
            for record in self.run.request.facts
            if record.id in wanted
        }

    @cached_property
    def _of_epochs(self) -> dict[str, tuple[CircuitSet, tuple[CircuitSet, ...]]]:
        """The circuits of each epoch, and random ones like them."""
        return {
            epoch: self._with_random(epoch_circuits(self.run, rows, epoch))
            for epoch, rows in self.rows.items()
        }

    @cached_property
    def of_strata(self) -> dict[str, dict[str, StratumSet]]:
        """The circuits of each stratum at each target; none without ``by``.

        Raises:
            UsageError: No fact has a stratum under the key.
        """
        if self.by is None:
            return {}
        return {
            target: stratum_circuits(self.run, self.known(target), target, self.facts, self.by)
            for target in self.targets
        }

    def known(self, epoch: str) -> dict[str, CellRow]:
        """The cells of the facts that pass the gate at an epoch, as the sweep judged them."""
        rows = self.rows[epoch]
        return {f: row for f, row in rows.items() if row.values.get("faithfulness") is not None}

    @cached_property
    def sets(self) -> dict[str, dict[Label, CircuitSet]]:
        """All circuits that run on the weights of each target."""
        found: dict[str, dict[Label, CircuitSet]] = {}
        for target in self.targets:
            sets: dict[Label, CircuitSet] = {}
            for epoch in dict.fromkeys((*self.sources, target)):
                is_source = epoch in self.sources
                _add(sets, "epoch", epoch, self._of_epochs[epoch], with_random=is_source)
            for side, half in enumerate(half_circuits(self.run, self.rows[target], target)):
                sets[Label("half", str(side))] = half
            for name, stratum in self.of_strata.get(target, {}).items():
                _add(sets, "stratum", name, self._with_random(stratum.circuits))
            found[target] = sets
        return found

    def file(self, target: str) -> JudgementFile:
        """Where the judgements of a target lie."""
        settings = {
            "metric": self.metric,
            "ablation": self.ablation,
            "dtype": self.run.request.settings["dtype"],
            "device": self.device,
            "numerics": NUMERICS_VERSION,
            "libraries": library_versions(),
        }
        if self.ablation in CONSTANT:  # means over the prompts of all facts judged together
            settings["together"] = digest(sorted(self.fact_keys[f] for f in self.rows[target]))
        return JudgementFile(
            folder=self.run.path / FOLDER,
            checkpoint=self.run.checkpoint(target).content_hash or "",
            settings=settings,
        )

    def due(self, target: str, there: Judgements) -> tuple[list[Fact], list[CircuitSet]]:
        """The facts that lack a circuit on a target's weights, and the circuits that any lacks."""
        facts: list[Fact] = []
        sets: dict[int, CircuitSet] = {}
        for fact in self.facts:
            if fact.id not in self.rows[target]:
                continue
            judged = there.get(self.fact_keys[fact.id])
            lacking = [
                one
                for one in self.sets[target].values()
                if fact.id in one.keys
                and (judged is None or one.keys[fact.id] not in judged.circuits)
            ]
            sets |= {id(one): one for one in lacking}
            if lacking or self.ablation in CONSTANT:
                facts.append(fact)
        return (facts, list(sets.values())) if sets else ([], [])

    def judgements(self) -> dict[str, Judgements]:
        """What was judged on each target's weights so far."""
        return {target: self.file(target).read() for target in self.targets}

    def _with_random(self, circuits: CircuitSet) -> tuple[CircuitSet, tuple[CircuitSet, ...]]:
        drawn = random_like(circuits, self.run.topology, seed=self.seed, n_draws=self.n_draws)
        return circuits, drawn


def _add(
    sets: dict[Label, CircuitSet],
    kind: str,
    name: str,
    circuits: tuple[CircuitSet, tuple[CircuitSet, ...]],
    *,
    with_random: bool = True,
) -> None:
    sets[Label(kind, name)] = circuits[0]
    if with_random:
        sets |= {Label(kind, name, draw): one for draw, one in enumerate(circuits[1])}


def judged_facts(run: Run, fact_ids: Sequence[str] | None) -> tuple[Fact, ...]:
    """The facts that are asked for, in the run's order.

    Raises:
        UsageError: There is no such fact, or it has no evaluation prompt.
    """
    by_id = {fact.id: fact for fact in run.facts}
    wanted = tuple(by_id) if fact_ids is None else tuple(fact_ids)
    for fact_id in wanted:
        if fact_id not in by_id:
            raise UsageError(
                f"fact {fact_id!r} is not in this run", field="fact", hint="see `kcircuits ls`"
            )
        if not by_id[fact_id].prompt_indices("evaluation"):
            raise UsageError(
                f"fact {fact_id!r} has no evaluation prompt: a circuit is not judged on the "
                "prompts that it was found on",
                field="fact",
                hint='give it prompts with "use": "evaluation", or leave it out with --facts',
            )
    return tuple(fact for fact in run.facts if fact.id in wanted)
