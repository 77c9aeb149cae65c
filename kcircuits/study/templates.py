"""The rows of a cell's scores: which prompts each is of, and in which words these ask."""

from kcircuits.core.cell import Cell
from kcircuits.core.facts import Fact


def row_prompts(fact: Fact, cell: Cell) -> tuple[tuple[int, ...], ...]:
    """Indices of the prompts that each row of a cell's scores is of: one, or a fold of them."""
    n_folds, rows = cell.provenance.params.get("n_folds"), cell.prompt_idx.tolist()
    if n_folds is None:
        return tuple((i,) for i in rows)
    prompts = fact.prompt_indices("discovery")
    return tuple(prompts[fold::n_folds] for fold in rows)


def templates_of(fact: Fact, cell: Cell) -> tuple[str, ...]:
    """Template of each row of a cell's scores; of a fold those of its prompts as one text."""
    return tuple("\n".join(names) for names in row_templates(fact, cell))


def row_templates(fact: Fact, cell: Cell) -> tuple[tuple[str, ...], ...]:
    """Templates of each row's prompts, by name."""
    return tuple(
        tuple(sorted(template_of(fact, i) for i in prompts)) for prompts in row_prompts(fact, cell)
    )


def template_of(fact: Fact, prompt_idx: int) -> str:
    """The clean text of a prompt without its subject."""
    prompt = fact.prompts[prompt_idx]
    if prompt.subject_span is None:
        return prompt.clean.replace(fact.subject, "{}")
    start, stop = prompt.subject_span
    return f"{prompt.clean[:start]}{{}}{prompt.clean[stop:]}"
