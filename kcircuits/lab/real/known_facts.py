"""Facts that a pretrained model knows, with which methods of finding circuits can be compared.

A method is judged by how much of what the model does its circuits do, so the model has to do it:
of a pool of real facts (``real_facts``) those are kept that it knows on the evaluation prompts
and on the discovery prompts alike, and whose gap between the clean and the corrupt run passes the
gate of faithfulness on both. As many as are wanted are drawn, balanced over relations and, within
a relation, over answers of one and of several tokens; no subject twice.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from kcircuits.core.facts import Fact, Use
from kcircuits.errors import UsageError
from kcircuits.lab.real.real_facts import real_facts
from kcircuits.lab.real.world import WORLD, RealRelation

if TYPE_CHECKING:
    from kcircuits.models import Model

# Called with the number of facts that were asked since the last call.
Progress = Callable[[int], object]


@dataclass(frozen=True, kw_only=True)
class KnownFacts:
    """What was drawn, and out of what.

    Attributes:
        facts: The drawn facts.
        gaps: Of each drawn fact, by id: the metric of the clean run minus that of the corrupt
            run, in logits, mean over the evaluation prompts.
        n_pool: Facts of the pool, by relation.
        n_known: Those among them that the model knows on the evaluation prompts.
    """

    facts: tuple[Fact, ...]
    gaps: Mapping[str, float]
    n_pool: Mapping[str, int]
    n_known: Mapping[str, int]


def draw_known_facts(
    model: "Model",
    n_facts: int,
    seed: int = 0,
    *,
    relations: Iterable[RealRelation] = tuple(WORLD.values()),
    progress: Progress | None = None,
) -> KnownFacts:
    """Draws known facts, in the order of relations.

    Args:
        model: From ``load_model``, with a tokenizer.
        n_facts: How many.
        seed: Of the pool and of the draw; the same seed draws the same facts.
        relations: What to ask.
        progress: Called as facts are asked: first each of the pool, then the drawn ones.

    Raises:
        UsageError: As ``require_draw``, a model without a tokenizer, or one that knows fewer.
    """
    require_draw(n_facts, seed)
    if model.tokenizer is None:
        raise UsageError(
            "the model has no tokenizer, so it cannot be asked",
            field="model",
            hint="put the tokenizer's files into the model's folder",
        )
    advance = progress or (lambda _: None)
    pool = real_facts(model.tokenizer, seed, relations)
    known = _known_of_pool(model, pool, advance)
    gaps = _draw(model, known, n_facts, advance)
    if len(gaps) < n_facts:
        raise UsageError(
            f"the model knows {len(gaps)} of the {len(pool)} facts that its tokenizer can be "
            f"asked; {n_facts} are wanted",
            field="n",
            hint=f"ask for at most {len(gaps)}, or choose a larger model" if gaps else
            "choose a larger model",
        )  # fmt: skip
    return KnownFacts(
        facts=tuple(fact for fact in pool if fact.id in gaps),
        gaps=gaps,
        n_pool=Counter(fact.relation for fact in pool),
        n_known=Counter(fact.relation for fact in known),
    )


def require_draw(n_facts: int, seed: int) -> None:
    """UsageError unless 1 fact or more is wanted, and the seed is 0 or more."""
    for name, value, least in (("n", n_facts, 1), ("seed", seed, 0)):
        if value < least:
            raise UsageError(f"{name} is {value}; expected {least} or more", field=name)


def next_facts(waiting: Iterable[Fact], drawn: Iterable[Fact], n_facts: int) -> list[Fact]:
    """The next facts to draw, in turn from the relation that has the fewest so far.

    Within a relation, from the stratum of ``answer_tokens`` that has the fewest. Ties go to what
    waits longest. A subject that is drawn already, for whatever relation, is passed over.

    Args:
        waiting: In the order in which facts of one relation and stratum are to be drawn.
        drawn: Those before.
        n_facts: How many at most.
    """
    waiting, taken = list(waiting), list(drawn)
    n_before = len(taken)
    while len(taken) - n_before < n_facts:
        subjects = {fact.subject for fact in taken}
        by_relation = Counter(fact.relation for fact in taken)
        by_stratum = Counter(map(_stratum, taken))
        free = [fact for fact in waiting if fact.subject not in subjects]
        if not free:
            break
        taken.append(min(free, key=lambda f: (by_relation[f.relation], by_stratum[_stratum(f)])))
    return taken[n_before:]


def _known_of_pool(model: "Model", pool: Sequence[Fact], advance: Progress) -> list[Fact]:
    """The facts that are known by their evaluation prompts; asked relation by relation."""
    known: list[Fact] = []
    for _, group in groupby(pool, key=lambda fact: fact.relation):
        asked = list(group)
        known += _known(model, asked, "evaluation")
        advance(len(asked))
    return known


def _draw(
    model: "Model", waiting: Sequence[Fact], n_facts: int, advance: Progress
) -> dict[str, float]:
    """The gaps of the drawn facts, by id: as many as wanted, or all that can be drawn.

    Those are known by their discovery prompts too, and pass the gate of faithfulness.
    """
    gaps: dict[str, float] = {}
    drawn: list[Fact] = []
    while len(drawn) < n_facts and (block := next_facts(waiting, drawn, n_facts - len(drawn))):
        waiting = [fact for fact in waiting if fact not in block]
        known = _known(model, block, "discovery")
        found = _gaps(model, known)
        gaps |= found
        drawn += [fact for fact in known if fact.id in found]
        advance(len(block))
    return gaps


def _stratum(fact: Fact) -> tuple[str, str]:
    return fact.relation, fact.strata["answer_tokens"]


def _known(model: "Model", facts: Sequence[Fact], use: Use) -> list[Fact]:
    """The facts that are known by their prompts for one use."""
    from kcircuits.evaluation import known_facts as known_by_fact
    from kcircuits.evaluation import probe
    from kcircuits.models import tokenize

    batch = tokenize(model, facts).with_use(use)
    known = known_by_fact(probe(model, replace(batch, uses=None)))
    return [fact for fact in facts if known[fact.id]]


def _gaps(model: "Model", facts: Sequence[Fact]) -> dict[str, float]:
    """The gaps of the facts that pass the gate of faithfulness on both kinds of prompts."""
    from kcircuits.engine.chunks import DEFAULT_MEMORY
    from kcircuits.engine.metrics import DEFAULT_METRIC
    from kcircuits.evaluation.judge import Judge
    from kcircuits.models import tokenize

    if not facts:
        return {}
    batch = tokenize(model, facts)
    gaps, passes = np.zeros(len(facts)), np.ones(len(facts), dtype=bool)
    for use in ("discovery", "evaluation"):
        judge = Judge(
            model,
            batch,
            batch.fact_ids,
            model.topology,
            metric=DEFAULT_METRIC,
            ablation="corrupt",
            memory=DEFAULT_MEMORY,
            use=use,
        )
        judged = judge.run(0, lambda _: np.empty(0))
        gaps = judge.by_fact(judged.clean - judged.empty)
        passes &= ~judge.is_gated(judged)
    return {fact.id: float(gaps[i]) for i, fact in enumerate(facts) if passes[i]}
