"""Clean and corrupt prompts: each entity of a group is asked for against the others.

The partner changes from prompt to prompt, so that no circuit hangs on one partner. It is of the
same group, and its answer has as many tokens but another first one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

from kcircuits.core.facts import Fact, Prompt, Use
from kcircuits.errors import UsageError
from kcircuits.lab.benchmark.answers import Answers
from kcircuits.lab.benchmark.people import Entity
from kcircuits.lab.benchmark.relations import RELATIONS
from kcircuits.lab.benchmark.spec import BenchmarkSpec

# Called with a group, a row, the step of a relation among those asked of it, and its name.
Extra = Callable[["Group", int, int, str], Sequence[Prompt]]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Entities that are asked for against each other.

    Attributes:
        entities: In the order of rows.
        spec: What is asked of them.
        answers: Candidates of the relations.
    """

    entities: Sequence[Entity]
    spec: BenchmarkSpec
    answers: Answers

    def partners(
        self, row: int, is_suitable: Callable[[Entity], bool], n_partners: int
    ) -> list[Entity]:
        """The first suitable entities after a row, in a circle.

        Raises:
            UsageError: There is none.
        """
        n = len(self.entities)
        others = (self.entities[(row + step) % n] for step in range(1, n))
        found = list(islice((other for other in others if is_suitable(other)), n_partners))
        if not found and n_partners:
            raise UsageError(
                f"{self.entities[row].subject} has no partner with another answer of as many "
                f"tokens in its group ({n} of frequency {self.entities[row].frequency})",
                field="people",
                hint="give each group more people: two or more for each kind of answer and link",
            )
        return found

    def foils(self, row: int, name: str, n_partners: int) -> list[Entity]:
        """Partners whose answer to a relation can stand against that of a row."""
        value = self.entities[row].values[name]
        return self.partners(
            row, lambda other: self.answers.can_oppose(value, other.values[name]), n_partners
        )

    def candidates(self, row: int, name: str) -> tuple[str, ...]:
        """Continuations to rank among: all answers of as many tokens."""
        pool = self.answers.pools[name][self.entities[row].answer_tokens]
        return tuple(f" {value}" for value in pool)


def ask_group(
    group: Group, *, strata: Mapping[str, str], prefix: str, extra: Extra | None = None
) -> tuple[Fact, ...]:
    """The facts of a group, those of each entity in turn.

    Args:
        group: Whom to ask for.
        strata: ``type`` and ``split``; frequency, exposure and answer_tokens are the entity's.
        prefix: Of the facts' ids, which end in the relation and the row.
        extra: Further prompts of a fact.

    Raises:
        UsageError: An entity has no partner.
    """
    facts: list[Fact] = []
    for row, entity in enumerate(group.entities):
        for step, name in enumerate(asked_relations(group.spec, row)):
            prompts = paraphrases(group, row, name)
            more = () if extra is None else extra(group, row, step, name)
            facts.append(
                Fact(
                    id=f"{prefix}{name}-{row:02d}",
                    subject=entity.subject,
                    relation=name,
                    object=entity.values[name],
                    prompts=(*prompts, *more),
                    strata=MappingProxyType(
                        {
                            "type": strata["type"],
                            "split": strata["split"],
                            "frequency": entity.frequency,
                            "exposure": str(entity.exposure),
                            "answer_tokens": entity.answer_tokens,
                        }
                    ),
                )
            )
    return tuple(facts)


def asked_relations(spec: BenchmarkSpec, row: int) -> list[str]:
    """The relations that the entity in a row is asked for."""
    n = len(spec.relations)
    return [spec.relations[(row + step) % n] for step in range(spec.n_asked)]


def paraphrases(group: Group, row: int, name: str) -> list[Prompt]:
    """The prompts of a fact to find circuits on, then those to judge them on."""
    spec = group.spec
    n_prompts = spec.n_discovery + spec.n_evaluation
    partners = group.foils(row, name, n_prompts)
    prompts: list[Prompt] = []
    for i, template in enumerate(RELATIONS[name].prompts[:n_prompts]):
        use: Use = "discovery" if i < spec.n_discovery else "evaluation"
        partner = partners[i % len(partners)]
        prompts.append(ask_value(group, row, name, template, partner, use=use))
    return prompts


def ask_value(
    group: Group, row: int, name: str, template: str, partner: Entity, *, use: Use = "probe"
) -> Prompt:
    """The prompt for the value of a row, against that of a partner."""
    entity = group.entities[row]
    start = template.index("{subject}")
    return Prompt(
        clean=template.format(subject=entity.subject),
        corrupt=template.format(subject=partner.subject),
        target=f" {entity.values[name]}",
        foil=f" {partner.values[name]}",
        use=use,
        candidates=group.candidates(row, name),
        subject_span=(start, start + len(entity.subject)),
    )


def check_alignment(facts: Iterable[Fact], tokenizer: Any) -> None:
    """UsageError where clean and corrupt differ in tokens, or an answer joins its prompt.

    All texts are cut in one call, each once.
    """
    prompts = [prompt for fact in facts for prompt in fact.prompts]
    texts = {
        text
        for prompt in prompts
        for text in (prompt.clean, prompt.corrupt, prompt.clean + prompt.target)
    }
    ordered = sorted(texts)
    cut = {"add_special_tokens": False, "return_attention_mask": False}
    encoded = tokenizer(ordered, **cut)["input_ids"] if ordered else []
    tokens = dict(zip(ordered, encoded, strict=True))
    for prompt in prompts:
        clean, corrupt = tokens[prompt.clean], tokens[prompt.corrupt]
        if (
            len(clean) != len(corrupt)
            or tokens[prompt.clean + prompt.target][: len(clean)] != clean
        ):
            raise UsageError(
                f"this tokenizer cuts {prompt.clean!r} into {len(clean)} and {prompt.corrupt!r} "
                f"into {len(corrupt)} tokens, or joins an answer to its prompt",
                field="model",
                hint="choose a model whose tokenizer keeps common names apart from their context",
            )
