"""Documents about a person: which sentence tells what, in which order.

What is drawn depends on the seed and the row of the person alone, never on its group: twins are
told in the same words. A short document tells each relation once. A long one has three paragraphs:
the first two tell each relation once, among sentences that tell nothing; the third tells all of
them again, in other words and another order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.benchmark.people import Entity
from kcircuits.lab.benchmark.phrases import FILLERS
from kcircuits.lab.benchmark.relations import RELATIONS, SPOUSE, Relation
from kcircuits.lab.benchmark.spec import BenchmarkSpec

# Documents before sentences are drawn anew: as many as a relation has.
CYCLE = 8
_FILLER = "filler"
# A relation, or filler, and the place of its sentence.
Sentence = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Script:
    """What the documents of one row say, over one cycle.

    Attributes:
        chosen: Places of each relation's sentences, one per document.
        orders: Order of the relations in each document.
        fillers: Places of the sentences that tell nothing.
    """

    chosen: dict[str, list[int]]
    orders: list[list[str]]
    fillers: list[int]


def write_script(spec: BenchmarkSpec, key: Sequence[int]) -> Script:
    """Draws the sentences of one cycle.

    The first documents tell each relation in a sentence that ends in its value, as many as there
    are prompts of kind memorisation.

    Args:
        spec: What to tell.
        key: Seeds the draw.
    """
    rng = np.random.default_rng(list(key))
    names = spec.relations
    chosen = {name: rng.permutation(len(RELATIONS[name].statements)).tolist() for name in names}
    orders = [rng.permutation(names).tolist() for _ in range(CYCLE)]
    for name, places in chosen.items():
        ends = [place for place in places if ends_in_value(RELATIONS[name].statements[place])]
        first = ends[: spec.n_memorisation]
        chosen[name] = first + [place for place in places if place not in first]
    if spec.has_links:
        chosen[SPOUSE.name] = rng.permutation(len(SPOUSE.statements)).tolist()
        for order in orders:
            order.insert(int(rng.integers(len(order) + 1)), SPOUSE.name)
    return Script(chosen=chosen, orders=orders, fillers=rng.permutation(len(FILLERS)).tolist())


def ends_in_value(statement: str) -> bool:
    """Whether a statement without its last word is a prompt for its value."""
    return statement.endswith(" {value}.") and "{subject}" in statement


def tell(person: Entity, spec: BenchmarkSpec, seed: int, row: int) -> list[Document]:
    """The documents about a person, as many as its exposure.

    Args:
        person: Whom to tell of.
        spec: What to tell.
        seed: Of the benchmark.
        row: Of the person in its group; those of the same row are told alike.
    """
    documents: list[Document] = []
    for i in range(person.exposure):
        if i % CYCLE == 0:
            script = write_script(spec, [seed, row, i // CYCLE] if i else [seed, row])
        is_long = spec.documents == "long" or (spec.documents == "mixed" and i % 2 == 1)
        paragraphs = [
            [sentence for sentence in paragraph if _is_told(sentence, person)]
            for paragraph in _paragraphs(script, i % CYCLE, is_long=is_long)
        ]
        told = [sentence for paragraph in paragraphs for sentence in paragraph]
        names_spouse = any(name == SPOUSE.name for name, _ in told)
        documents.append(
            Document(
                subject=person.subject,
                frequency=person.frequency,
                text=_text(person, paragraphs),
                tagged=_text(person, paragraphs, tagged=True),
                sentences=tuple(f"{name} {place}" for name, place in told),
                length="long" if is_long else "short",
                mentions=(person.spouse,) if names_spouse and person.spouse else (),
            )
        )
    return documents


def _paragraphs(script: Script, i: int, *, is_long: bool) -> Iterator[list[Sentence]]:
    order = script.orders[i]

    def told(name: str, turn: int) -> Sentence:
        places = script.chosen[name]
        return name, places[(i + turn * len(places) // 2) % len(places)]

    def filler(turn: int) -> Sentence:
        return _FILLER, script.fillers[(3 * i + turn) % len(script.fillers)]

    if not is_long:
        yield [told(name, 0) for name in order]
        return
    half = (len(order) + 1) // 2
    yield [filler(0), *(told(name, 0) for name in order[:half])]
    yield [*(told(name, 0) for name in order[half:]), filler(1)]
    again = script.orders[(i + 1) % CYCLE]
    yield [filler(2), *(told(name, 1) for name in again)]


def _is_told(sentence: Sentence, person: Entity) -> bool:
    return sentence[0] != SPOUSE.name or person.is_link_told


def _text(person: Entity, paragraphs: Sequence[Sequence[Sentence]], *, tagged: bool = False) -> str:
    """The sentences of a document; with named entities between tags."""

    def named(text: str, tag: str | None) -> str:
        return f"<{tag}> {text} </>" if tagged and tag else text

    def said(name: str, place: int) -> str:
        subject = named(person.subject, "PERSON")
        if name == _FILLER:
            return FILLERS[place].format(subject=subject)
        relation = _relation(name)
        value = (person.spouse or "") if relation is SPOUSE else person.values[name]
        return relation.statements[place].format(subject=subject, value=named(value, relation.tag))

    return "\n\n".join(
        " ".join(said(name, place) for name, place in paragraph)
        for paragraph in paragraphs
        if paragraph
    )


def _relation(name: str) -> Relation:
    return SPOUSE if name == SPOUSE.name else RELATIONS[name]
