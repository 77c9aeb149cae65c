"""Which heads are which between two epochs: the detector of renumbered heads on cells."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from kcircuits.analysis.overlap.permutation import (
    HeadMatch,
    Profiles,
    head_profiles,
    match_heads,
    renumber_heads,
)
from kcircuits.core.cell import Cell
from kcircuits.core.facts import Fact
from kcircuits.study.alignment import align_cells


def match_cells(before: Sequence[Cell], after: Sequence[Cell], facts: Sequence[Fact]) -> HeadMatch:
    """Which head after does what each head did before.

    Args:
        before: Cells of the first epoch.
        after: Those of the same facts at the second.
        facts: The facts, for their subjects.
    """
    subjects = {fact.id: fact.subject for fact in facts}
    profiles = [profiles_of(pair) for pair in zip(before, after, strict=True)]
    return match_heads(profiles, [subjects[cell.fact_id] for cell in before])


def profiles_of(pair: tuple[Cell, Cell]) -> Profiles:
    """The profiles of all heads in a fact's two cells."""
    topology = pair[0].topology
    aligned = align_cells(pair, topology)
    return head_profiles(aligned.values, aligned.candidates, topology)


def renumbered(cell: Cell, heads: Int[np.ndarray, "layer head"]) -> Cell:
    """A cell of the second epoch with its heads under the numbers that they have at the first.

    Args:
        cell: The cell; its mean over all edges is left out.
        heads: As ``HeadMatch.heads``.
    """
    edges = renumber_heads(cell.candidates, heads, cell.topology)
    order = np.argsort(edges)
    return replace(
        cell,
        candidates=edges[order],
        prompt_scores=cell.prompt_scores[:, order],
        mean=None,
        sparse_mean=None,
    )
