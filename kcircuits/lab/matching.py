"""The matching report of a benchmark: do its groups differ in their frequency alone?

Groups are the frequencies of invented people. Compared are, over as many documents of each person
as every one has, the documents' lengths and sentences; and over the facts of all groups, those that
no document tells included, relations, answers, their tokens and the lengths of prompts. Beside
that: does a document tell of someone who is held out, or hold a prompt with its answer; and do
clean and corrupt prompts differ in their number of tokens?
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kcircuits.analysis.matching import Match, Quantity, compare_groups
from kcircuits.core.facts import Fact
from kcircuits.errors import UsageError
from kcircuits.io.atomic import write_atomic
from kcircuits.lab.document import Document

SCHEMA = "kcircuits.matching/1"
# Paired groups are alike to the last token; other groups, to the usual level of a test.
MIN_P = 0.05


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A document that says what it must not.

    Attributes:
        fact: Whose.
        document: Place of the document.
        what: ``held-out subject``, or ``prompt with its answer``.
    """

    fact: str
    document: int
    what: str


@dataclass(frozen=True, kw_only=True)
class MatchingReport:
    """What ``matching_report`` found.

    Attributes:
        quantities: What groups were compared in.
        matches: Every pair of groups in every quantity.
        leaks: Documents that say what they must not.
        unequal: Facts and prompts whose clean and corrupt texts differ in tokens.
    """

    quantities: tuple[Quantity, ...]
    matches: tuple[Match, ...]
    leaks: tuple[Leak, ...]
    unequal: tuple[tuple[str, int], ...]

    @property
    def is_matched(self) -> bool:
        """Nothing is broken."""
        return all(each.is_matched for each in self.matches) and not (self.leaks or self.unequal)

    def require(self) -> None:
        """UsageError that names the first thing that is broken."""
        for each in self.matches:
            if not each.is_matched:
                first, second = each.groups
                told = f"p {each.p:.3g}" if each.p is not None else f"limit {each.limit:.3g}"
                raise UsageError(
                    f"groups {first} and {second} differ in {each.quantity}: {each.test} "
                    f"{each.statistic:.3g}, {told}",
                    field="people",
                    hint="give the groups the same number of people, or a multiple of it",
                )
        for leak in self.leaks:
            raise UsageError(
                f"document {leak.document} leaks fact {leak.fact!r}: {leak.what}",
                field="documents",
                hint="leave the document out, or put the fact into the trained split",
            )
        for fact, prompt in self.unequal:
            raise UsageError(
                f"fact {fact!r}, prompt {prompt}: clean and corrupt differ in tokens",
                field="facts",
                hint="choose a corrupt subject of as many tokens",
            )

    def write(self, path: Path) -> None:
        """As JSON, without the members of the groups."""
        parts = {name: getattr(self, name) for name in ("matches", "leaks")}
        content: dict[str, Any] = {"schema": SCHEMA, "is_matched": self.is_matched}
        content |= {name: [asdict(each) for each in found] for name, found in parts.items()}
        content["unequal"] = [{"fact": fact, "prompt": place} for fact, place in self.unequal]
        write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def matching_report(
    facts: Sequence[Fact], documents: Sequence[Document], tokenizer: Any, *, seed: int = 0
) -> MatchingReport:
    """Compares the groups of a benchmark.

    Args:
        facts: All facts; those of ``type`` other than invented are no group.
        documents: All documents, in any order of subjects.
        tokenizer: What lengths are counted by.
        seed: Of the resampling floors.
    """
    invented = [fact for fact in facts if fact.strata.get("type") == "invented"]
    quantities = [*_of_documents(documents, tokenizer), *_of_facts(invented, tokenizer)]
    compared = tuple(each for each in quantities if len(each.values) > 1)
    return MatchingReport(
        quantities=compared,
        matches=tuple(compare_groups(compared, min_p=MIN_P, seed=seed)),
        leaks=tuple(_leaks(facts, documents)),
        unequal=tuple(_unequal(facts, tokenizer)),
    )


def _unequal(facts: Sequence[Fact], tokenizer: Any) -> Iterator[tuple[str, int]]:
    asked = [(fact.id, i, prompt) for fact in facts for i, prompt in enumerate(fact.prompts)]
    clean = _n_tokens(tokenizer, [prompt.clean for *_, prompt in asked])
    corrupt = _n_tokens(tokenizer, [prompt.corrupt for *_, prompt in asked])
    for (fact, i, _), n, m in zip(asked, clean, corrupt, strict=True):
        if n != m:
            yield fact, i


def _of_documents(documents: Sequence[Document], tokenizer: Any) -> Iterator[Quantity]:
    """Lengths, sentences and values of as many documents a subject as every group has."""
    by_subject: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        by_subject[document.subject].append(document)
    n_common = min(map(len, by_subject.values()), default=0)
    groups: dict[str, list[Document]] = defaultdict(list)
    for told in by_subject.values():
        groups[told[0].frequency] += told[:n_common]
    yield Quantity(
        name="length of documents, tokens",
        kind="continuous",
        values={
            name: _n_tokens(tokenizer, [each.text for each in told])
            for name, told in groups.items()
        },
    )
    yield Quantity(
        name="sentences of documents",
        kind="categorical",
        values={
            name: [sentence for each in told for sentence in each.sentences]
            for name, told in groups.items()
        },
    )


def _of_facts(facts: Sequence[Fact], tokenizer: Any) -> Iterator[Quantity]:
    groups: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        groups[fact.strata["frequency"]].append(fact)

    def of(name: str, value: Any) -> Quantity:
        values: Mapping[str, list[str]] = {
            group: [str(value(fact)) for fact in mine] for group, mine in groups.items()
        }
        return Quantity(name=name, kind="categorical", values=values)

    yield of("relations asked", lambda fact: fact.relation)
    yield of("answers", lambda fact: fact.object)
    yield of("tokens of answers", lambda fact: _n_tokens(tokenizer, [fact.prompts[0].target])[0])
    yield Quantity(
        name="length of prompts, tokens",
        kind="continuous",
        values={
            group: _n_tokens(tokenizer, [prompt.clean for fact in mine for prompt in fact.prompts])
            for group, mine in groups.items()
        },
    )


def _leaks(facts: Sequence[Fact], documents: Sequence[Document]) -> Iterator[Leak]:
    """Held-out subjects in documents, and prompts that a document holds with their answer."""
    texts = [_words(document.text) for document in documents]
    where = _index(texts, {_words(fact.subject) for fact in facts})
    for fact in facts:
        is_held_out = fact.strata.get("split") == "held-out"
        asked = [_words(prompt.clean + prompt.target) for prompt in fact.prompts]
        for place in where[_words(fact.subject)]:
            if is_held_out:
                yield Leak(fact=fact.id, document=place, what="held-out subject")
            elif any(_holds(texts[place], words) for words in asked):
                yield Leak(fact=fact.id, document=place, what="prompt with its answer")


def _index(
    texts: Sequence[tuple[str, ...]], subjects: set[tuple[str, ...]]
) -> dict[tuple[str, ...], list[int]]:
    """The texts that name each subject, in one pass over all words."""
    lengths = sorted({len(subject) for subject in subjects})
    where: dict[tuple[str, ...], list[int]] = {subject: [] for subject in subjects}
    for place, words in enumerate(texts):
        grams = {words[start : start + n] for n in lengths for start in range(len(words) - n + 1)}
        for subject in grams & subjects:
            where[subject].append(place)
    return where


def _holds(words: tuple[str, ...], part: tuple[str, ...]) -> bool:
    n = len(part)
    return any(words[start : start + n] == part for start in range(len(words) - n + 1))


def _words(text: str) -> tuple[str, ...]:
    """Words in lower case, without marks around them."""
    return tuple(word.strip(".,;:!?\"'()").lower() for word in text.split())


def _n_tokens(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return [len(ids) for ids in encoded]
