"""The same prompts on both sides: rows of two methods' scores made to be of the same prompts.

Attribution scores every discovery prompt; edge pruning scores folds of them. A half of the folds
of the one must not meet its own prompts in the other, so both sides get the coarser rows: each is
the mean of the finer rows that it is of.
"""

from dataclasses import replace

import numpy as np

from kcircuits.core.cell import Cell
from kcircuits.core.facts import Fact
from kcircuits.errors import IncomparableError
from kcircuits.study.templates import row_prompts, row_templates


def common_rows(
    fact: Fact, cells: tuple[Cell, Cell]
) -> tuple[tuple[Cell, Cell], tuple[tuple[str, ...], ...]]:
    """One fact's cells by two methods on rows of the same prompts, and the templates of the rows.

    Raises:
        IncomparableError: They scored other prompts, or folds that do not fit into each other.
    """
    rows = [row_prompts(fact, cell) for cell in cells]
    coarse = int(len(rows[1]) < len(rows[0]))
    wanted, finer = rows[coarse], rows[1 - coarse]
    n_prompts = np.array([len(prompts) for prompts in finer], dtype=np.float64)
    is_part = np.array([[set(part) <= set(whole) for part in finer] for whole in wanted])
    weights = is_part * n_prompts
    if (
        not np.array_equal(weights.sum(1), [len(whole) for whole in wanted])
        or (is_part.sum(0) != 1).any()
    ):
        first, second = (cell.provenance.method for cell in cells)
        raise IncomparableError(
            f"fact {fact.id!r}: the {len(rows[0])} rows of {first} and the {len(rows[1])} of "
            f"{second} are not of the same discovery prompts, and neither are sums of the other",
            field="discovery prompts",
            hint="score the same prompts by both; the number of folds has to divide the other",
        )
    mean = weights / weights.sum(1, keepdims=True)
    folded = replace(
        cells[1 - coarse],
        prompt_idx=cells[coarse].prompt_idx,
        prompt_scores=(mean @ cells[1 - coarse].prompt_scores).astype(np.float32),
    )
    pair = (folded, cells[1]) if coarse else (cells[0], folded)
    return pair, row_templates(fact, cells[coarse])
