"""Facts with the circuits of their halves: what overlaps between facts are worked out from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kcircuits.analysis.overlap.between_facts import FactPairs
from kcircuits.analysis.overlap.clusters import MIN_PROMPTS
from kcircuits.analysis.overlap.corrected import (
    Items,
    Level,
    edge_items,
    matched_edge_items,
    node_items,
)
from kcircuits.analysis.overlap.fact_halves import (
    FactHalves,
    Members,
    cross_overlaps,
    fact_halves,
    halves_of,
    meet_own_templates,
    quarters_of,
)
from kcircuits.core.candidates import flat_edges
from kcircuits.core.cell import Cell
from kcircuits.core.facts import Fact
from kcircuits.core.topology import Topology
from kcircuits.study.alignment import align_cells
from kcircuits.study.templates import row_templates

UNKNOWN, ONE_PROMPT = "not known", "fewer than 2 discovery prompts"


@dataclass(frozen=True, kw_only=True)
class HalvedFact:
    """A fact with its circuits at one epoch; the scores that they were found by are gone.

    Attributes:
        fact: The fact.
        templates: Those of each discovery prompt (or fold), in the order in which they are split.
        halves: Circuits of the halves.
        quarters: Of the quarters of the first and of the second halves; None if not asked for, or
            with fewer than 4 prompts.
    """

    fact: Fact
    templates: tuple[tuple[str, ...], ...]
    halves: FactHalves
    quarters: tuple[FactHalves, FactHalves] | None

    @property
    def n_prompts(self) -> int:
        """Discovery prompts, or folds of them."""
        return len(self.templates)


def halve(
    fact: Fact,
    cell: Cell,
    level: Level,
    *,
    templates: Sequence[tuple[str, ...]] | None = None,
    with_quarters: bool = False,
) -> HalvedFact:
    """The circuits of a fact's halves, its prompts in the order of their templates.

    In that order a template falls on the same side in all facts that have the same templates.

    Args:
        fact: The fact.
        cell: Its cell, with two rows of scores at least.
        level: Edges or nodes.
        templates: Of each row; None reads them off the cell.
        with_quarters: The quarters too.
    """
    rows = row_templates(fact, cell) if templates is None else tuple(templates)
    order = sorted(range(len(rows)), key=rows.__getitem__)
    topology, aligned = cell.topology, align_cells([cell], cell.topology)
    scores = aligned.values[0][order]
    items = aligned.items(topology)[level]
    names = (
        np.searchsorted(flat_edges(topology), aligned.candidates)
        if level == "edge"
        else np.arange(len(items.block))
    )

    def circuits(members: Members) -> FactHalves:
        return fact_halves(scores, cell.n_edges, members, items, names)

    quarters = None
    if with_quarters and len(rows) >= MIN_PROMPTS:
        first, second = quarters_of(len(rows))
        quarters = (circuits(first), circuits(second))
    return HalvedFact(
        fact=fact,
        templates=tuple(rows[i] for i in order),
        halves=circuits(halves_of(len(rows))),
        quarters=quarters,
    )


def all_items(topology: Topology, level: Level) -> tuple[Items, ...]:
    """All edges as one block, and in blocks of layers and receiver type; or all nodes."""
    edges = flat_edges(topology)
    if level == "node":
        return (node_items(topology, edges),)
    return edge_items(topology, edges), matched_edge_items(topology, edges)


def obstacle(cell: Cell) -> str | None:
    """Why a fact is not compared; None where it is."""
    if not cell.is_known:
        return UNKNOWN
    return ONE_PROMPT if len(cell.prompt_scores) < 2 else None


def fact_pairs(halved: Sequence[HalvedFact], topology: Topology, level: Level) -> FactPairs:
    """Overlaps of all pairs of facts.

    Args:
        halved: The facts.
        topology: The graph.
        level: Of their circuits.
    """
    halves = [one.halves for one in halved]
    overlaps, *matched = cross_overlaps(halves, halves, all_items(topology, level))
    is_pair = ~meet_own_templates([one.templates for one in halved])
    np.fill_diagonal(is_pair, val=False)
    return FactPairs(
        overlaps=overlaps,
        matched=matched[0] if matched else None,
        entities=np.array([one.fact.subject for one in halved]),
        is_pair=is_pair,
    )
