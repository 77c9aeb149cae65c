"""All about one fact: its prompts, what became of it, and the history of its circuit."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from kcircuits.analysis.overlap.corrected import Level
from kcircuits.analysis.temporal.history import NEVER, history
from kcircuits.core.facts import Fact
from kcircuits.errors import UsageError
from kcircuits.study.diff.tables import edge_name, number
from kcircuits.study.fact_cells import FactCells, resolve_epochs, stream_facts
from kcircuits.study.overlap.epoch_steps import EpochSteps
from kcircuits.study.run import Run
from kcircuits.study.track.core import core_of, item_name
from kcircuits.study.track.groups import ACQUIRED, NEVER_KNOWN, FactTrack
from kcircuits.study.track.read import track_run
from kcircuits.study.track.track import Track

if TYPE_CHECKING:
    import plotly.graph_objects as go

Row = dict[str, Any]
Facts = Iterable[FactCells]
SCHEMA = "kcircuits.inspect/1"
N_EDGES = 15
THERE, HALF, GONE = "there", "half", "gone"
_VALUES = ("prob", "logprob", "rank", "faithfulness", "metric", "hit_at_10", "target_rank")
_STEP = ("turnover", "turnover_low", "turnover_high", "turnover_detectable", "verdict", "reason")
_NEAR_SHOWN = 5


@dataclass(frozen=True, kw_only=True, repr=False)
class Inspection:
    """One fact; see ``Run.inspect``.

    Attributes:
        track: The track of this fact alone.
        verdicts: For each step between neighbouring epochs, its row of ``EpochSteps.fact_rows`` as
            it stands among all facts and steps; None where it lacks a cell.
    """

    track: Track
    verdicts: tuple[Row | None, ...]

    @property
    def one(self) -> FactTrack:
        """The fact and its circuits."""
        return self.track.facts[0]

    @property
    def fact(self) -> Fact:
        """The fact."""
        return self.one.fact

    @property
    def knowledge(self) -> str:
        """What became of the fact over these epochs, in words."""
        if self.one.knowledge == ACQUIRED and self.one.acquisition is not None:
            return f"acquired at {self.track.epochs[self.one.acquisition]}"
        return "never known" if self.one.knowledge == NEVER_KNOWN else "known at the first epoch"

    @cached_property
    def rows(self) -> list[Row]:
        """One row per epoch: what the model knows, and the shape of the circuit.

        Fields: ``epoch, known``; ``prob, logprob, rank`` of the answer, ``faithfulness, metric,
        hit_at_10, target_rank`` of the circuit; ``there`` (items that replicate), ``entropy`` and
        ``depth`` with ``_noise`` (difference between halves of the prompts), ``hubs`` by name.
        All but the first are None where there is no cell.
        """
        circuits = self.one.circuits
        names = np.array(self.track.topology.nodes)[1:-1]
        rows: list[Row] = []
        for i, epoch in enumerate(self.track.epochs):
            values, here = self.one.values[i], bool(circuits.has_cell[i])
            known = bool(circuits.is_known[i]) if here else None
            row: Row = {"epoch": epoch, "known": known}
            row |= {name: _finite(values.get(name)) for name in _VALUES}
            row["there"] = int(circuits.items(self.track.level).in_both[i].sum()) if here else None
            for name in ("entropy", "depth"):
                value = float(getattr(circuits.structure, name)[i])
                row[name] = number(value) if here else None
                row[f"{name}_noise"] = number(float(getattr(circuits, f"{name}_apart")[i, i]))
            row["hubs"] = names[circuits.hubs.in_both[i]].tolist() if here else None
            rows.append(row)
        return rows

    @cached_property
    def steps(self) -> list[Row]:
        """One row per step between neighbouring epochs: births, deaths, turnover and verdict.

        Fields: ``from, to, born, died, kept``, ``noise`` (births and deaths with swapped epoch
        labels), and those of ``EpochSteps.fact_rows`` on turnover and verdict. None without cells.
        """
        circuits = self.one.circuits
        items = circuits.items(self.track.level)
        rows: list[Row] = []
        for i, (ends, judged) in enumerate(
            zip(pairwise(self.track.epochs), self.verdicts, strict=True)
        ):
            row: Row = dict(zip(("from", "to"), ends, strict=True))
            for name in ("born", "died", "kept"):
                row[name] = int(getattr(items, name)[i].sum()) if judged else None
            noise = float(circuits.swapped.born[i] + circuits.swapped.died[i])
            row["noise"] = noise if judged else None
            row |= {name: judged[name] if judged else None for name in _STEP}
            rows.append(row)
        return rows

    @cached_property
    def edges(self) -> list[Row]:
        """Edges that replicate at some epoch, those of largest |score| at any epoch first.

        Rows ``edge, scores`` (mean over the discovery prompts at each epoch; None where too small
        to be kept), ``states`` (``there`` in both halves, ``gone`` in neither, else ``half``; None
        without a cell), ``first_seen, last_seen, lifetime, epochs_present, spells``, the epochs at
        which it was ``born`` and ``died``, and ``core``: there at every epoch at which the fact is
        known.
        """
        circuits, epochs = self.one.circuits, self.track.epochs
        found = history(circuits.edges, circuits.has_cell)
        in_core = core_of(self.one, "edge")
        chosen = np.flatnonzero(found.first_seen != NEVER)
        size = np.abs(circuits.scores[:, chosen]).max(0)
        return [
            {
                "edge": edge_name(self.track.topology, int(circuits.candidates[i])),
                "scores": [float(score) if score else None for score in circuits.scores[:, i]],
                "states": self._states(i),
                "first_seen": epochs[found.first_seen[i]],
                "last_seen": epochs[found.last_seen[i]],
                "lifetime": int(found.lifetime[i]),
                "epochs_present": int(found.n_present[i]),
                "spells": int(found.n_spells[i]),
                "born": [epochs[t + 1] for t in np.flatnonzero(circuits.edges.born[:, i])],
                "died": [epochs[t + 1] for t in np.flatnonzero(circuits.edges.died[:, i])],
                "core": bool(in_core[i]),
            }
            for i in chosen[np.argsort(-size, kind="stable")].tolist()
        ]

    @property
    def changed_edges(self) -> list[Row]:
        """Those of ``edges`` that were born or died in some step."""
        return [row for row in self.edges if row["born"] or row["died"]]

    @cached_property
    def core(self) -> list[str]:
        """Edges (or nodes) that are there at every epoch at which the fact is known."""
        level, circuits = self.track.level, self.one.circuits
        places = np.flatnonzero(core_of(self.one, level))
        flat = circuits.candidates[places] if level == "edge" else places
        return [item_name(self.track.topology, level, int(place)) for place in flat]

    def plot(self) -> "go.Figure":
        """The strongest edges over epochs: there, in one half, or gone."""
        from kcircuits.plots.fact import presence_figure  # plotly costs what this may answer in

        return presence_figure(self.edges[:N_EDGES], self.track.epochs)

    def to_json(self, *, top: int | None = None) -> dict[str, Any]:
        """The fact as ``kcircuits inspect --json`` prints it.

        Args:
            top: At most that many edges, changed edges, and names of the core.
        """
        fact, track = self.fact, self.track
        return {
            "schema": SCHEMA,
            "run": track.run,
            "fact": fact.id,
            "subject": fact.subject,
            "relation": fact.relation,
            "object": fact.object,
            "strata": dict(fact.strata),
            "knowledge": self.knowledge,
            "epochs": list(track.epochs),
            "level": track.level,
            "method": track.method,
            "params": dict(track.params),
            "n_edges": track.n_edges,
            "score": {"unit": track.meaning.unit, "helps": track.meaning.helps},
            "prompts": [
                {**asdict(prompt), "use": fact.use_of(i)} for i, prompt in enumerate(fact.prompts)
            ],
            "rows": self.rows,
            "steps": self.steps,
            "edges": self.edges[:top],
            "n_edges_seen": len(self.edges),
            "changed_edges": self.changed_edges[:top],
            "n_edges_changed": len(self.changed_edges),
            "core": {"size": len(self.core), "items": self.core[:top]},
        }

    def _states(self, edge: int) -> list[str | None]:
        circuits = self.one.circuits
        both, neither = circuits.edges.in_both[:, edge], circuits.edges.in_neither[:, edge]
        return [
            None if not here else THERE if there else GONE if gone else HALF
            for here, there, gone in zip(circuits.has_cell, both, neither, strict=True)
        ]


def inspect_fact(
    run: Run,
    fact_id: str,
    *,
    epochs: Sequence[str] | None = None,
    level: Level = "edge",
    seed: int = 0,
    progress: Callable[[Facts], Facts] = iter,
) -> Inspection:
    """Gathers all about one fact; see ``Run.inspect``.

    Args:
        run: The run.
        fact_id: The fact.
        epochs: References to the epochs; default all that have results.
        level: Count edges or nodes.
        seed: Of the swapped labels.
        progress: Wraps the facts while all of them are compared, e.g. a progress bar.

    Raises:
        UsageError: There is no such fact or epoch.
        IncomparableError: The fact has no result, or cells do not compare.
    """
    require_fact(run, fact_id)
    places = resolve_epochs(run, epochs)
    track = track_run(run, level=level, epochs=places, facts=[fact_id], seed=seed)
    judged: dict[tuple[str, str], Row] = {}
    if len(places) > 1:
        facts = progress(stream_facts(run, places))
        steps = EpochSteps.from_facts(facts, epochs=places, against="previous", level=level)
        judged = {(r["from"], r["to"]): r for r in steps.fact_rows if r["fact"] == fact_id}
    return Inspection(track=track, verdicts=tuple(map(judged.get, pairwise(places))))


def require_fact(run: Run, fact_id: str) -> None:
    """UsageError, with the ids that come near, where a run has no such fact."""
    if fact_id in run.fact_ids:
        return
    text = fact_id.casefold()
    named = [f.id for f in run.facts if text in f.id.casefold() or text in f.subject.casefold()]
    near = named or difflib.get_close_matches(fact_id, run.fact_ids, n=_NEAR_SHOWN, cutoff=0.5)
    more = ", ..." * (len(near) > _NEAR_SHOWN)
    meant = f"did you mean {', '.join(near[:_NEAR_SHOWN])}{more}" if near else None
    raise UsageError(
        f"fact {fact_id!r} is not in this run ({len(run.fact_ids)} facts)",
        field="fact",
        hint=meant or "see `kcircuits ls facts`",
    )


def _finite(value: float | None) -> float | None:
    return None if value is None else number(value)
