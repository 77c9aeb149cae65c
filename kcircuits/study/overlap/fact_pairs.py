"""One fact of a run at all its epochs: the tables that the overlap of all pairs is made from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.overlap.all_pairs import (
    EpochHalves,
    PairTables,
    between_facts,
    epoch_halves,
    fact_pairs,
    pruned_same_prompts,
    widen,
)
from kcircuits.analysis.overlap.corrected import Items, Level, matched_edge_items
from kcircuits.analysis.overlap.pair_nulls import (
    Labellings,
    Pair,
    degree_chance,
    prompt_draws,
    swapped_pairs,
)
from kcircuits.core.facts import Fact
from kcircuits.core.parallel import ordered_map
from kcircuits.core.topology import Topology
from kcircuits.errors import UsageError
from kcircuits.study.alignment import AlignedScores, align_cells
from kcircuits.study.checked_facts import CheckedFacts
from kcircuits.study.fact_cells import FactCells
from kcircuits.study.templates import templates_of


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """What is worked out for each fact.

    Attributes:
        level: Compare edges or nodes.
        measures: The graded measures too.
        pruned: The Jaccard without dangling edges too; 10 ms a fact and epoch.
        degree: The chance of circuits with the same degrees too; 40 ms a fact and epoch.
        n_prompt_draws: Draws of the prompts, for an interval over them; 0 for none.
        swaps: Swapped epoch labels for all pairs, for a null; 15 ms a fact and pair.
    """

    level: Level = "edge"
    measures: bool = False
    pruned: bool = False
    degree: bool = False
    n_prompt_draws: int = 0
    swaps: bool = False

    @classmethod
    def of(cls, **options: Any) -> "PairOptions":
        """Options by name.

        Raises:
            UsageError: There is no such option, or it cannot be meant.
        """
        known = [one.name for one in fields(cls)]
        for name in options:
            if name not in known:
                raise UsageError(
                    f"there is no option {name!r}", field=name, hint=f"choose of {', '.join(known)}"
                )
        made = cls(**options)
        if made.level not in ("edge", "node"):
            raise UsageError(f"level is {made.level!r}; expected edge or node", field="level")
        if made.n_prompt_draws < 0:
            raise UsageError(
                f"n_prompt_draws is {made.n_prompt_draws}; expected 0 or more",
                field="n_prompt_draws",
            )
        if made.degree and made.level == "node":
            raise UsageError(
                "circuits of the same degrees touch the same nodes: a chance that keeps degrees "
                "compares edges",
                field="degree",
                hint="take level edge",
            )
        return made


@dataclass(frozen=True, kw_only=True)
class HalfItems:
    """Items of a fact's half circuits, to compare with those of another fact.

    Attributes:
        masks: Circuits of both halves of each split at each epoch.
        items: What each item is, a flat edge index or the place of a node; none twice.
    """

    masks: Bool[np.ndarray, "2 split epoch item"]
    items: Int[np.ndarray, " item"]


@dataclass(frozen=True, kw_only=True)
class FactPairs:
    """One fact at all epochs.

    Attributes:
        fact: The fact.
        templates: Template of each row of its scores.
        n_prompts: Discovery prompts (or folds of them), P.
        present: Places of the epochs at which there is a cell.
        is_known: Whether the fact is known at each epoch.
        pairs: Its tables over all epochs.
        halves: Its circuits, to compare with other facts; None with one prompt, and once used.
        prompt_draws: Tables of k with prompts drawn again; None where not asked for.
        swapped: Overlaps under swapped labels, by places of epochs.
    """

    fact: Fact
    templates: tuple[str, ...]
    n_prompts: int
    present: tuple[int, ...]
    is_known: Bool[np.ndarray, " epoch"]
    pairs: PairTables
    halves: HalfItems | None
    prompt_draws: Float[np.ndarray, "draw epoch epoch"] | None = None
    swapped: Mapping[Pair, Labellings] | None = None

    @property
    def n_epochs(self) -> int:
        """Number of epochs of the tables."""
        return len(self.is_known)

    def beside(self, other: "FactPairs") -> Float[np.ndarray, "epoch epoch"]:
        """Overlap of its circuits with another fact's, at epochs where both are known."""
        made = np.full((self.n_epochs, self.n_epochs), np.nan)
        if self.halves is None or other.halves is None:
            return made
        common = [i for i in self.present if i in other.present]
        sides = [
            one.halves.masks[:, :, [one.present.index(i) for i in common]]
            for one in (self, other)
            if one.halves is not None
        ]
        _, *places = np.intersect1d(
            self.halves.items, other.halves.items, assume_unique=True, return_indices=True
        )
        made[np.ix_(common, common)] = between_facts(
            *(masks[..., place] for masks, place in zip(sides, places, strict=True)),
            *(masks.sum(-1) for masks in sides),
        )
        known = self.is_known & other.is_known
        return np.where(known[:, None] & known[None, :], made, np.nan)


def read_pairs(
    facts: CheckedFacts, options: PairOptions, *, n_workers: int | None = None
) -> Iterator[FactPairs]:
    """The tables of each fact, each beside the last fact of its relation about another subject.

    Args:
        facts: Facts with their cells.
        options: What to work out of each.
        n_workers: Threads; the results do not depend on it.
    """
    before: dict[tuple[str, int], FactPairs] = {}
    work = lambda one: pairs_of_fact(one, facts.first.topology, options)  # noqa: E731
    for one in ordered_map(work, facts, n_workers=n_workers):
        key = (one.fact.relation, one.n_prompts)
        other, made = before.get(key), one
        if other is not None and other.fact.subject != one.fact.subject:
            tables = {**one.pairs.tables, "others": one.beside(other)}
            made = replace(one, pairs=replace(one.pairs, tables=tables))
        before[key] = one
        yield replace(made, halves=None)


def pairs_of_fact(facts: FactCells, topology: Topology, options: PairOptions) -> FactPairs:
    """Works out the tables of a fact.

    Args:
        facts: The fact's comparable cells, at least one, see ``check_comparable``.
        topology: Theirs; one object for all facts.
        options: What to work out.
    """
    cells = [cell for cell in facts.cells if cell is not None]
    aligned = align_cells(cells, topology)
    scores, n_edges = aligned.values, cells[0].n_edges
    items = aligned.items(topology)
    halves = epoch_halves(scores, n_edges) if scores.shape[1] >= 2 else None
    pairs = fact_pairs(
        scores,
        n_edges,
        items[options.level],
        matched=matched_edge_items(topology, aligned.candidates)
        if options.level == "edge"
        else None,
        graded=options.measures,
        halves=halves,
    )
    further: dict[str, np.ndarray] = {}
    if options.pruned:
        further["pruned"] = pruned_same_prompts(scores, n_edges, aligned.candidates, topology)
    if options.degree and halves is not None:
        further["degree"] = degree_chance(halves, aligned.candidates, topology, name=facts.fact.id)
    pairs = replace(pairs, tables={**pairs.tables, **further})
    made = FactPairs(
        fact=facts.fact,
        templates=templates_of(facts.fact, cells[0]),
        n_prompts=scores.shape[1],
        present=tuple(facts.present),
        is_known=facts.is_known,
        pairs=widen(pairs, facts.present, len(facts.cells)),
        halves=None if halves is None else _items_of(halves, aligned, items[options.level]),
    )
    return made if halves is None else _with_nulls(made, scores, n_edges, items, options)


def _with_nulls(
    made: FactPairs,
    scores: Float[np.ndarray, "epoch prompt candidate"],
    n_edges: int,
    items: Mapping[Level, Items],
    options: PairOptions,
) -> FactPairs:
    """With the draws and swaps that were asked for."""
    draws, swapped, n_epochs = None, None, len(made.is_known)
    if options.n_prompt_draws:
        draws = np.full((options.n_prompt_draws, n_epochs, n_epochs), np.nan)
        draws[:, *np.ix_(made.present, made.present)] = prompt_draws(
            scores, n_edges, items[options.level], n_draws=options.n_prompt_draws
        )
    if options.swaps:
        found = swapped_pairs(scores, n_edges, items, options.level)
        swapped = {(made.present[s], made.present[t]): values for (s, t), values in found.items()}
    return replace(made, prompt_draws=draws, swapped=swapped)


def _items_of(halves: EpochHalves, aligned: AlignedScores, items: Items) -> HalfItems:
    masks = items.keep(halves.kept).of(halves.masks)
    if items.nodes is None:
        return HalfItems(masks=masks, items=aligned.candidates[halves.kept])
    return HalfItems(masks=masks, items=np.arange(masks.shape[-1]))
