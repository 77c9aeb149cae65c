"""Prompts to probe with: the same fact asked in ways that need more, or less, than knowing it.

- *paraphrase*: sentences that neither documents nor circuits saw;
- *memorisation*: the beginning of a sentence that a document told, word for word;
- *compositional*: the value of B, asked by naming A, whose documents say that they are married;
- *inverse*: who has the value; candidates are people of the group without it;
- *inference*: whom B is married to, where only A's documents say so.

People are asked for by their first names, which are single tokens; of those who share one, the
first stands for all. Twins in the other groups get the same prompts but for names and values,
those of people whom no document tells of included.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from kcircuits.core.facts import Kind, Prompt
from kcircuits.lab.benchmark.pairs import Extra, Group, ask_value
from kcircuits.lab.benchmark.people import Entity
from kcircuits.lab.benchmark.relations import RELATIONS, SPOUSE
from kcircuits.lab.benchmark.telling import write_script


def probe_prompts(seed: int) -> Extra:
    """What ``ask_group`` adds to each fact, by the spec's numbers.

    Args:
        seed: Of the benchmark: says which sentences documents tell.
    """

    def asked(group: Group, row: int, step: int, name: str) -> list[Prompt]:
        prompts: list[Prompt] = []
        for kind, ask in _KINDS.items():
            n_prompts = _n_due(group, kind, row, step)
            found = ask(group, row, name, n_prompts, seed) if n_prompts else []
            prompts += [replace(prompt, use="probe", kind=kind) for prompt in found]
        return prompts

    return asked


def _n_due(group: Group, kind: Kind, row: int, step: int) -> int:
    """Prompts of a kind that a fact gets; of a share below 1, one in every so many facts."""
    share, place = group.spec.probes.get(kind, 0), row * group.spec.n_asked + step
    if kind in ("compositional", "inference"):
        if group.entities[row].spouse is None or group.entities[row].is_link_told:
            return 0
        couple, n_asked = row // 2, group.spec.n_asked
        place = couple * n_asked + (step + couple) % n_asked
    return int((place + 1) * share + 1e-9) - int(place * share + 1e-9)


def _paraphrase(group: Group, row: int, name: str, n_prompts: int, seed: int) -> list[Prompt]:
    del seed
    start = group.spec.n_discovery + group.spec.n_evaluation
    templates = RELATIONS[name].prompts[start : start + n_prompts]
    partners = group.foils(row, name, n_prompts)
    return [
        ask_value(group, row, name, template, partners[i % len(partners)])
        for i, template in enumerate(templates)
    ]


def _memorisation(group: Group, row: int, name: str, n_prompts: int, seed: int) -> list[Prompt]:
    places = write_script(group.spec, [seed, row]).chosen[name][:n_prompts]
    told = [RELATIONS[name].statements[place] for place in places]
    partners = group.foils(row, name, n_prompts)
    return [
        ask_value(group, row, name, sentence.removesuffix(" {value}."), partners[i % len(partners)])
        for i, sentence in enumerate(told)
    ]


def _compositional(group: Group, row: int, name: str, n_prompts: int, seed: int) -> list[Prompt]:
    del seed
    entity = group.entities[row]
    value = entity.values[name]

    def is_suitable(other: Entity) -> bool:
        is_asked = other.spouse is not None and not other.is_link_told
        return is_asked and group.answers.can_oppose(value, other.values[name])

    partners = group.partners(row, is_suitable, n_prompts)
    return [
        Prompt(
            clean=template.format(subject=entity.spouse),
            corrupt=template.format(subject=partners[i % len(partners)].spouse),
            target=f" {value}",
            foil=f" {partners[i % len(partners)].values[name]}",
            candidates=group.candidates(row, name),
        )
        for i, template in enumerate(RELATIONS[name].compositional[:n_prompts])
    ]


def _inverse(group: Group, row: int, name: str, n_prompts: int, seed: int) -> list[Prompt]:
    del seed
    entity = group.entities[row]
    value = entity.values[name]

    def is_another(other: Entity) -> bool:
        return other.values[name] != value and _first(other.subject) != _first(entity.subject)

    def is_suitable(other: Entity) -> bool:
        return is_another(other) and group.answers.can_oppose(value, other.values[name])

    partners = group.partners(row, is_suitable, n_prompts)
    others = group.partners(row, is_another, group.spec.n_candidates - 1)
    return [
        Prompt(
            clean=template.format(value=value),
            corrupt=template.format(value=partners[i % len(partners)].values[name]),
            target=f" {_first(entity.subject)}",
            foil=f" {_first(partners[i % len(partners)].subject)}",
            candidates=_first_names(
                [each.subject for each in (entity, partners[i % len(partners)], *others)],
                group.spec.n_candidates,
            ),
        )
        for i, template in enumerate(RELATIONS[name].inverse[:n_prompts])
    ]


def _inference(group: Group, row: int, name: str, n_prompts: int, seed: int) -> list[Prompt]:
    del name, seed
    entity = group.entities[row]
    spouse = entity.spouse or ""

    def is_suitable(other: Entity) -> bool:
        is_asked = other.spouse is not None and not other.is_link_told
        return is_asked and _first(other.spouse or "") != _first(spouse)

    partners = group.partners(row, is_suitable, n_prompts)
    others = group.partners(row, lambda _: True, group.spec.n_candidates)
    prompts: list[Prompt] = []
    for i, template in enumerate(SPOUSE.prompts[:n_prompts]):
        partner = partners[i % len(partners)]
        start = template.index("{subject}")
        prompts.append(
            Prompt(
                clean=template.format(subject=entity.subject),
                corrupt=template.format(subject=partner.subject),
                target=f" {_first(spouse)}",
                foil=f" {_first(partner.spouse or '')}",
                candidates=_first_names(
                    [spouse, partner.spouse or "", *(other.subject for other in others)],
                    group.spec.n_candidates,
                ),
                subject_span=(start, start + len(entity.subject)),
            )
        )
    return prompts


def _first(name: str) -> str:
    return name.split()[0]


def _first_names(names: Sequence[str], n_names: int) -> tuple[str, ...]:
    """Continuations: first names, each once; sorted, so that their order says nothing."""
    distinct = list(dict.fromkeys(f" {_first(name)}" for name in names))
    return tuple(sorted(distinct[:n_names]))


_Ask = Callable[[Group, int, str, int, int], list[Prompt]]
_KINDS: Mapping[Kind, _Ask] = MappingProxyType(
    {
        "paraphrase": _paraphrase,
        "memorisation": _memorisation,
        "compositional": _compositional,
        "inverse": _inverse,
        "inference": _inference,
    }
)
