"""Clean and corrupt prompts: each entity of a group is asked for against the others."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from kcircuits.core.facts import Fact, Prompt
from kcircuits.errors import UsageError
from kcircuits.lab.names import is_single_token
from kcircuits.lab.relations import CAPITAL, CAPITALS, Relation
from kcircuits.lab.spec import BenchmarkSpec, Entity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def answers(
    relation: Relation, tokenizer: "PreTrainedTokenizerBase", n_candidates: int
) -> tuple[str, ...]:
    """The first answers of a relation that are one token after a space.

    Raises:
        UsageError: There are fewer than ``n_candidates``.
    """
    usable = [value for value in relation.values if is_single_token(tokenizer, f" {value}")]
    if len(usable) < n_candidates:
        raise UsageError(
            f"relation {relation.name} has {len(usable)} answers of one token for this tokenizer; "
            f"{n_candidates} were asked for",
            field="n_candidates",
            hint=f"ask for at most {len(usable)}, or leave the relation out",
        )
    return tuple(usable[:n_candidates])


def capital_facts(
    spec: BenchmarkSpec,
    tokenizer: "PreTrainedTokenizerBase",
    countries: Sequence[str] | None = None,
) -> tuple[Fact, ...]:
    """Controls from the real world, never trained: capitals of countries, ranked among all.

    Args:
        spec: How many prompts.
        tokenizer: Decides which countries and capitals are usable (one token each).
        countries: The ones to ask for, each other's corrupt subjects; default all usable ones.
    """
    usable = {
        country: capital
        for country, capital in CAPITALS.items()
        if is_single_token(tokenizer, f" {country}") and is_single_token(tokenizer, f" {capital}")
    }
    entities = [
        Entity(subject=country, values={CAPITAL.name: capital})
        for country, capital in usable.items()
        if countries is None or country in countries
    ]
    strata = {"type": "real", "frequency": "none", "split": "control"}
    asked = [CAPITAL] * len(entities)
    return pair_facts(entities, asked, spec, tokenizer, strata, "real-", tuple(usable.values()))


def pair_facts(
    entities: Sequence[Entity],
    asked: Sequence[Relation],
    spec: BenchmarkSpec,
    tokenizer: "PreTrainedTokenizerBase",
    strata: Mapping[str, str],
    prefix: str,
    candidates: tuple[str, ...] | None = None,
) -> tuple[Fact, ...]:
    """One fact per entity; each prompt's corrupt subject is another entity of the group.

    The partner changes from prompt to prompt, so that no circuit hangs on one partner.

    Args:
        entities: The group.
        asked: The relation that each entity is asked for.
        spec: Numbers of prompts and candidates.
        tokenizer: Filters the candidates, and checks that clean and corrupt align.
        strata: Strata of every fact.
        prefix: Of the facts' ids, which end in the relation and a running number.
        candidates: Answers to rank among; default those of each relation.

    Raises:
        UsageError: An entity has no partner with another answer, or prompts do not align.
    """
    among = {
        relation.name: candidates or answers(relation, tokenizer, spec.n_candidates)
        for relation in asked
    }
    facts: list[Fact] = []
    for row, (entity, relation) in enumerate(zip(entities, asked, strict=True)):
        others = [*entities[row + 1 :], *entities[:row]]
        prompts = _prompts(entity, others, relation, spec, among[relation.name])
        _check_alignment(prompts, tokenizer)
        facts.append(
            Fact(
                id=f"{prefix}{relation.name}-{row:02d}",
                subject=entity.subject,
                relation=relation.name,
                object=entity.values[relation.name],
                prompts=prompts,
                strata=MappingProxyType(dict(strata)),
            )
        )
    return tuple(facts)


def _prompts(
    entity: Entity,
    others: Sequence[Entity],
    relation: Relation,
    spec: BenchmarkSpec,
    candidates: tuple[str, ...],
) -> tuple[Prompt, ...]:
    name = relation.name
    partners = [other for other in others if other.values[name] != entity.values[name]]
    if not partners:
        raise UsageError(
            f"{entity.subject} has no partner with another {name} in its group",
            field="people",
            hint="give each group at least two people",
        )
    n_prompts = spec.n_discovery + spec.n_evaluation
    prompts: list[Prompt] = []
    for i, template in enumerate(relation.prompts[:n_prompts]):
        partner = partners[i % len(partners)]
        start = template.index("{subject}")
        prompts.append(
            Prompt(
                clean=template.format(subject=entity.subject),
                corrupt=template.format(subject=partner.subject),
                target=f" {entity.values[name]}",
                foil=f" {partner.values[name]}",
                use="discovery" if i < spec.n_discovery else "evaluation",
                candidates=tuple(f" {value}" for value in candidates),
                subject_span=(start, start + len(entity.subject)),
            )
        )
    return tuple(prompts)


def _check_alignment(prompts: Sequence[Prompt], tokenizer: "PreTrainedTokenizerBase") -> None:
    for prompt in prompts:
        clean, corrupt, told = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (prompt.clean, prompt.corrupt, prompt.clean + prompt.target)
        )
        if len(clean) != len(corrupt) or told[: len(clean)] != clean:  # type: ignore[index]
            raise UsageError(
                f"this tokenizer cuts {prompt.clean!r} into {len(clean)} and {prompt.corrupt!r} "
                f"into {len(corrupt)} tokens, or joins an answer to its prompt",
                field="model",
                hint="choose a model whose tokenizer keeps common names apart from their context",
            )
