"""What documents say that they must not.

Texts are compared as sequences of words, in lower case and without marks. A document leaks

- ``held-out subject``: it names someone who is held out;
- ``value beside its subject``: it is about someone else, or the fact is in no document by design,
  and it holds the subject and the value;
- ``prompt with its answer``: it holds a prompt and its answer, but for prompts that ask for what
  was memorised;
- ``link that is to be inferred``: it is about someone whose link is asked for as an inference, and
  names the answer.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kcircuits.core.facts import Fact
from kcircuits.lab.benchmark.document import Document

Words = tuple[str, ...]
UNTOLD = ("held-out", "control")
"""Splits whose facts are in no document."""
# A prompt is looked for by its last words, answer included, before it is compared as a whole.
_TAIL = 3


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A document that says what it must not.

    Attributes:
        fact: Whose.
        document: Place of the document.
        what: One of the module's list.
    """

    fact: str
    document: int
    what: str


def find_leaks(facts: Sequence[Fact], documents: Sequence[Document]) -> Iterator[Leak]:
    """Every leak of every fact, in the order of facts."""
    texts = [_words(document.text) for document in documents]
    naming = _index(texts, {_words(fact.subject) for fact in facts})
    answering = _prompts_told(facts, texts)
    for place, fact in enumerate(facts):
        yield from _about(fact, documents, texts, naming[_words(fact.subject)])
        for document in sorted(answering.get(place, ())):
            yield Leak(fact=fact.id, document=document, what="prompt with its answer")


def _about(
    fact: Fact, documents: Sequence[Document], texts: Sequence[Words], places: Sequence[int]
) -> Iterator[Leak]:
    """The leaks among the documents that name a subject."""
    split, subject, value = fact.strata.get("split"), _words(fact.subject), _words(fact.object)
    inferred = {_words(p.target) for p in fact.prompts if p.kind == "inference"}
    for place in places:
        is_own = documents[place].subject == fact.subject
        if split == "held-out":
            yield Leak(fact=fact.id, document=place, what="held-out subject")
        elif (not is_own or split in UNTOLD) and _holds(_without(texts[place], subject), value):
            yield Leak(fact=fact.id, document=place, what="value beside its subject")
        if is_own and any(_holds(_without(texts[place], subject), name) for name in inferred):
            yield Leak(fact=fact.id, document=place, what="link that is to be inferred")


def _prompts_told(facts: Sequence[Fact], texts: Sequence[Words]) -> dict[int, set[int]]:
    """The documents that hold a prompt with its answer, by the place of the fact."""
    asked: dict[Words, set[int]] = defaultdict(set)
    lengths: dict[Words, set[int]] = defaultdict(set)
    for place, fact in enumerate(facts):
        for prompt in fact.prompts:
            if prompt.kind != "memorisation":
                words = _words(prompt.clean + prompt.target)
                asked[words].add(place)
                lengths[words[-_TAIL:]].add(len(words))
    told: dict[int, set[int]] = defaultdict(set)
    for document, words in enumerate(texts):
        for stop in range(1, len(words) + 1):
            for n in lengths.get(words[max(0, stop - _TAIL) : stop], ()):
                for place in asked.get(words[max(0, stop - n) : stop], ()):
                    told[place].add(document)
    return told


def _index(texts: Sequence[Words], subjects: set[Words]) -> dict[Words, list[int]]:
    """The texts that name each subject, in one pass over all words."""
    lengths = sorted({len(subject) for subject in subjects})
    where: dict[Words, list[int]] = {subject: [] for subject in subjects}
    for place, words in enumerate(texts):
        grams = {words[start : start + n] for n in lengths for start in range(len(words) - n + 1)}
        for subject in grams & subjects:
            where[subject].append(place)
    return where


def _without(words: Words, part: Words) -> Words:
    """The words where the subject's name is no word that could be a value."""
    n, kept, start = len(part), [], 0
    while start < len(words):
        if words[start : start + n] == part:
            kept.append("")
            start += n
        else:
            kept.append(words[start])
            start += 1
    return tuple(kept)


def _holds(words: Words, part: Words) -> bool:
    n = len(part)
    return any(words[start : start + n] == part for start in range(len(words) - n + 1))


def _words(text: str) -> Words:
    """Words in lower case, without marks around them."""
    return tuple(word.strip(".,;:!?\"'()").lower() for word in text.split())
