"""The circuits of a run's facts from epoch to epoch, as graphs that change.

A track holds a small summary of each fact (``track_run``); the tables are worked out from the
summaries when they are asked for. Means are over the facts that are known at the epoch
(at both epochs of a step); the others are counted. A fact that is not known has no circuit of its
own to speak of.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from kcircuits.analysis.overlap.corrected import Level
from kcircuits.analysis.temporal.structure import depth_of_all
from kcircuits.core.score_meaning import ScoreMeaning
from kcircuits.core.topology import Topology
from kcircuits.errors import UsageError
from kcircuits.study.diff.tables import number
from kcircuits.study.track.core import core_items, core_rows, hub_rows, role_rows
from kcircuits.study.track.groups import FactTrack, groups_of
from kcircuits.study.track.settling import settling_rows, trend_rows
from kcircuits.study.track.tables import epoch_rows, layer_rows, life_rows

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from kcircuits.core.circuit import Graph

Row = dict[str, Any]
SCHEMA = "kcircuits.track/1"


@dataclass(frozen=True, kw_only=True, repr=False)
class Track:
    """Circuits over epochs; see ``Run.track``.

    Attributes:
        run: Name of the run.
        epochs: Ids of the epochs, in training order.
        level: Whether births, spells, core and turnover count edges or nodes.
        by: Stratum key of the rows; ``knowledge`` groups by what became of the fact.
        method: Attribution method.
        params: Its parameters.
        meaning: What its scores say.
        rows_are: What it scores apart: discovery prompts, or folds of them.
        fraction: Budget as a share of all edges.
        n_edges: Budget as a count.
        n_prompts: Discovery prompts (or folds) per fact; the smallest number if facts differ.
        topology: The graph of the model.
        facts: What is kept of each fact.
        left_out: Facts that cannot be tracked, and why.
        seed: Of bootstrap and swapped labels.
    """

    run: str
    epochs: tuple[str, ...]
    level: Level
    by: str | None
    method: str
    params: Mapping[str, Any] = field(default_factory=dict)
    meaning: ScoreMeaning
    rows_are: str
    fraction: float
    n_edges: int
    n_prompts: int
    topology: Topology
    facts: tuple[FactTrack, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def __getitem__(self, fact_id: str) -> FactTrack:
        for one in self.facts:
            if one.fact.id == fact_id:
                return one
        why = self.left_out.get(fact_id, "is not in this track")
        raise UsageError(f"fact {fact_id!r} {why}", field="fact", hint="see `kcircuits ls facts`")

    @cached_property
    def groups(self) -> dict[str, list[FactTrack]]:
        """The facts of each stratum, by name."""
        return groups_of(self.facts, self.by)

    @cached_property
    def rows(self) -> list[Row]:
        """One row per stratum and epoch; see docs/track.md for the fields."""
        return self._per_group(epoch_rows, self.epochs, self.level, self.seed)

    @cached_property
    def layers(self) -> list[Row]:
        """Activation ratio of edges by sender layer, per stratum and epoch.

        Rows ``stratum, epoch, layer, facts, ratio, ratio_low, ratio_high, ratio_noise``; the input
        is layer -1; ``ratio_noise`` is the difference between halves of a fact's prompts.
        """
        return self._per_group(layer_rows, self.epochs, self.topology, self.seed)

    @cached_property
    def life_table(self) -> list[Row]:
        """Hazard and survival of items by epochs since birth, and under swapped epoch labels.

        Rows ``stratum, labels`` (``observed`` or ``swapped``), ``k, at_risk, died, hazard,
        survival`` with their 95% intervals over entities.
        """
        return self._per_group(life_rows, self.seed)

    @cached_property
    def settling(self) -> list[Row]:
        """Turnover, births and deaths by steps since a fact was acquired; see docs/track.md."""
        return settling_rows(self.facts, self.seed)

    @cached_property
    def trends(self) -> list[Row]:
        """Change of a fact's circuit from the first to the last epoch at which it is known.

        Rows ``stratum, measure, facts, change, change_low, change_high, moved, noise``.
        """
        return self._per_group(trend_rows, self.level, self.seed)

    @cached_property
    def hubs(self) -> list[Row]:
        """Heads and MLPs that are hubs of some fact's circuit at some epoch, most facts first.

        Rows ``stratum, node, layer, kind``, and per epoch ``hub_in`` (facts in which it replicates
        as a hub), ``known`` (facts that count) and mean ``in_degree`` and ``out_degree``.
        """
        return self._per_group(hub_rows, self.topology)

    @cached_property
    def roles(self) -> list[Row]:
        """Heads and MLPs whose place in circuits changes, most facts first.

        Rows ``stratum, node, layer, kind``, in how many facts it ``became_hub``, ``stopped_hub``,
        ``joined`` and ``left`` the circuit in each step, and ``entered_core`` and ``left_core`` at
        each epoch.
        """
        return self._per_group(role_rows, self.topology)

    def core(self, *, share: float = 1.0, since: str | None = None) -> list[Row]:
        """Size of the persistent core per stratum.

        Rows ``stratum, facts, left_out, size, size_low, size_high, per_epoch, swapped``.

        Args:
            share: Of a fact's known epochs at which an item must replicate.
            since: Id of the first epoch that counts; default the first.
        """
        return self._per_group(core_rows, self.level, _share(share), self._place(since), self.seed)

    def core_items(self, *, share: float = 1.0, since: str | None = None) -> list[Row]:
        """Edges (or nodes) by the number of facts in whose core they are: ``stratum, item, facts``.

        Args:
            share: As in ``core``.
            since: As in ``core``.
        """
        return self._per_group(
            core_items, self.level, _share(share), self._place(since), self.topology
        )

    def graph(
        self, fact_id: str | None = None, *, stratum: str | None = None, epoch: str | None = None
    ) -> "Graph":
        """Circuits over epochs as one networkx graph.

        Args:
            fact_id: The circuit of a fact.
            stratum: Or those of a stratum (``all`` without ``by``), over the facts known at each
                epoch.
            epoch: Only what is there at this epoch; default all that ever was.

        Raises:
            UsageError: Both or neither are given, or there is no such fact, stratum or epoch.
        """
        # networkx takes longer to import than the tables may take to be printed
        from kcircuits.study.track.graph import fact_graph, stratum_graph

        place = None if epoch is None else self._place(epoch)
        if (fact_id is None) == (stratum is None):
            raise UsageError("a graph is of one fact or of one stratum; give one of the two")
        if fact_id is not None:
            return fact_graph(self[fact_id], self.topology, self.epochs, place)
        if stratum not in self.groups:
            raise UsageError(
                f"there is no stratum {stratum!r}",
                field="stratum",
                hint=f"choose one of {', '.join(self.groups)}",
            )
        return stratum_graph(stratum, self.groups[stratum], self.topology, self.epochs, place)

    def plot(self) -> "go.Figure":
        """Entropy and depth of circuits over epochs, with bands, one line a stratum."""
        from kcircuits.plots.track_shape import shape_figure  # plotly costs what a track may

        return shape_figure(self.rows, depth_of_all(self.topology))

    def to_json(self, *, top: int | None = None) -> dict[str, Any]:
        """The track as ``kcircuits track --json`` prints it.

        Args:
            top: At most that many rows of hubs, roles and items of the core per stratum.
        """
        return {
            "schema": SCHEMA,
            "run": self.run,
            "epochs": list(self.epochs),
            "level": self.level,
            "by": self.by,
            "method": self.method,
            "params": dict(self.params),
            "fraction": self.fraction,
            "n_edges": self.n_edges,
            "prompts": self.n_prompts,
            "prompts_are": self.rows_are,
            "seed": self.seed,
            "depth_of_all_edges": depth_of_all(self.topology),
            "entropy_max": number(float(np.log(self.n_edges))),
            "rows": self.rows,
            "life_table": self.life_table,
            "trends": self.trends,
            "settling": self.settling,
            "layers": self.layers,
            "core": self.core(),
            "core_items": _first(self.core_items(), top),
            "hubs": _first(self.hubs, top),
            "roles": _first(self.roles, top),
            "left_out": dict(self.left_out),
        }

    def _per_group(self, table: Callable[..., list[Row]], *rest: Any) -> list[Row]:
        return [
            {"stratum": stratum, **row}
            for stratum, members in self.groups.items()
            for row in table(members, *rest)
        ]

    def _place(self, epoch: str | None) -> int:
        if epoch is None:
            return 0
        if epoch not in self.epochs:
            raise UsageError(
                f"epoch {epoch!r} is not in this track",
                field="epoch",
                hint=f"choose one of {', '.join(self.epochs)}",
            )
        return self.epochs.index(epoch)


def _share(share: float) -> float:
    if not 0 < share <= 1:
        raise UsageError(f"share is {share}; expected a number above 0, at most 1", field="share")
    return share


def _first(rows: list[Row], top: int | None) -> list[Row]:
    """The first rows of each stratum."""
    seen: dict[str, int] = {}
    kept: list[Row] = []
    for row in rows:
        seen[row["stratum"]] = seen.get(row["stratum"], 0) + 1
        if top is None or seen[row["stratum"]] <= top:
            kept.append(row)
    return kept
