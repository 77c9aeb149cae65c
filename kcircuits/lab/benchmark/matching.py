"""The matching report of a benchmark: do its groups differ in their frequency alone?

Groups are the frequencies of invented people, or of one's own facts. Compared are, over as many
documents of each person as every one has, the documents' lengths, sentences, orders of relations
and tokens; and over the facts of all groups, those that no document tells included, relations,
answers, their tokens, and the kinds and lengths of prompts. Beside that: does a document say what
it must not (``leakage``), do clean and corrupt prompts differ in their number of tokens, and is
everyone told of as often as the strata say?
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kcircuits.analysis.matching import Match, Quantity, compare_groups
from kcircuits.core.facts import Fact, Prompt
from kcircuits.errors import UsageError
from kcircuits.io.atomic import write_atomic
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.benchmark.leakage import Leak, find_leaks
from kcircuits.lab.benchmark.spec import Tolerances

SCHEMA = "kcircuits.matching/1"
GROUPED = ("invented", "own")
"""Types of facts whose frequencies are groups."""


@dataclass(frozen=True, kw_only=True)
class MatchingReport:
    """What ``matching_report`` found.

    Attributes:
        quantities: What groups were compared in.
        matches: Every pair of groups in every quantity.
        leaks: Documents that say what they must not.
        unequal: Facts and prompts whose clean and corrupt texts differ in tokens.
        miscounted: Facts that are told of in more or fewer documents than their strata say.
        tolerances: What was allowed.
    """

    quantities: tuple[Quantity, ...]
    matches: tuple[Match, ...]
    leaks: tuple[Leak, ...]
    unequal: tuple[tuple[str, int], ...]
    miscounted: tuple[str, ...]
    tolerances: Tolerances

    @property
    def is_matched(self) -> bool:
        """Nothing is broken."""
        return (
            all(each.is_matched for each in self.matches)
            and len(self.leaks) <= self.tolerances.leaks
            and len(self.unequal) <= self.tolerances.unequal
            and not self.miscounted
        )

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
        for leak in self.leaks[self.tolerances.leaks :]:
            raise UsageError(
                f"document {leak.document} leaks fact {leak.fact!r}: {leak.what}",
                field="documents",
                hint="leave the document out, or put the fact into the trained split",
            )
        for fact, prompt in self.unequal[self.tolerances.unequal :]:
            raise UsageError(
                f"fact {fact!r}, prompt {prompt}: clean and corrupt differ in tokens",
                field="facts",
                hint="choose a corrupt subject of as many tokens",
            )
        for fact in self.miscounted:
            raise UsageError(
                f"fact {fact!r} is told of more or less often than its exposure says",
                field="documents",
                hint="count the documents about its subject into its strata",
            )

    def write(self, path: Path) -> None:
        """As JSON, without the members of the groups."""
        parts = {name: getattr(self, name) for name in ("matches", "leaks")}
        content: dict[str, Any] = {"schema": SCHEMA, "is_matched": self.is_matched}
        content |= {name: [asdict(each) for each in found] for name, found in parts.items()}
        content["unequal"] = [{"fact": fact, "prompt": place} for fact, place in self.unequal]
        content |= {"miscounted": list(self.miscounted), "tolerances": asdict(self.tolerances)}
        write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def matching_report(
    facts: Sequence[Fact],
    documents: Sequence[Document],
    tokenizer: Any,
    *,
    tolerances: Tolerances | None = None,
    seed: int = 0,
) -> MatchingReport:
    """Compares the groups of a benchmark.

    Args:
        facts: All facts; those of a ``type`` that is none of ``GROUPED`` are no group.
        documents: All documents, in any order of subjects.
        tokenizer: What lengths are counted by.
        tolerances: What groups may differ by.
        seed: Of the resampling floors.
    """
    allowed = tolerances or Tolerances()
    invented = [fact for fact in facts if fact.strata.get("type") in GROUPED]
    subjects = {fact.subject for fact in invented}
    told = [document for document in documents if document.subject in subjects]
    lengths = _prompt_lengths(facts, tokenizer)
    quantities = [*_of_documents(told, tokenizer), *_of_facts(invented, lengths, tokenizer)]
    compared = tuple(
        each for each in quantities if len(each.values) > 1 and all(each.values.values())
    )
    matches = compare_groups(compared, min_p=allowed.ks_p, quantile=allowed.js_quantile, seed=seed)
    return MatchingReport(
        quantities=compared,
        matches=tuple(matches),
        leaks=tuple(find_leaks(facts, documents)),
        unequal=tuple(_unequal(facts, lengths)),
        miscounted=tuple(_miscounted(facts, documents)),
        tolerances=allowed,
    )


def _prompt_lengths(facts: Sequence[Fact], tokenizer: Any) -> dict[str, int]:
    """Tokens of every clean and corrupt text."""
    prompts = [prompt for fact in facts for prompt in fact.prompts]
    texts = sorted({text for prompt in prompts for text in (prompt.clean, prompt.corrupt)})
    return dict(zip(texts, map(len, _cut(tokenizer, texts)), strict=True))


def _unequal(facts: Sequence[Fact], lengths: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for fact in facts:
        for i, prompt in enumerate(fact.prompts):
            if lengths[prompt.clean] != lengths[prompt.corrupt]:
                yield fact.id, i


def _miscounted(facts: Sequence[Fact], documents: Sequence[Document]) -> Iterator[str]:
    """Facts whose stratum of exposure is not the number of documents about their subject."""
    counts = Counter(document.subject for document in documents)
    for fact in facts:
        exposure = fact.strata.get("exposure")
        is_counted = fact.strata.get("type") in (*GROUPED, "base")
        if is_counted and exposure is not None and int(exposure) != counts[fact.subject]:
            yield fact.id


def _of_documents(documents: Sequence[Document], tokenizer: Any) -> Iterator[Quantity]:
    """Of as many documents a subject as every group has: lengths, sentences, orders, tokens."""
    by_subject: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        by_subject[document.subject].append(document)
    n_common = min(map(len, by_subject.values()), default=0)
    groups: dict[str, list[Document]] = defaultdict(list)
    for told in by_subject.values():
        groups[told[0].frequency] += told[:n_common]

    def of(name: str, values: Callable[[Document], Iterable[str]]) -> Quantity:
        return Quantity(
            name=name,
            kind="categorical",
            values={
                group: [value for each in told for value in values(each)]
                for group, told in groups.items()
            },
        )

    lengths = {
        group: list(map(len, _cut(tokenizer, [each.text for each in told])))
        for group, told in groups.items()
    }
    yield Quantity(name="length of documents, tokens", kind="continuous", values=lengths)
    yield of("sentences of documents", lambda each: each.sentences)
    yield of("relations of documents, in order", lambda each: [_relations(each)])
    yield of("kinds of documents", lambda each: [each.length])
    yield Quantity(
        name="tokens of documents, without names",
        kind="categorical",
        values={
            group: [
                str(token)
                for ids in _cut(tokenizer, [_nameless(each) for each in told])
                for token in ids
            ]
            for group, told in groups.items()
        },
    )


def _relations(document: Document) -> str:
    return ", ".join(sentence.split()[0] for sentence in document.sentences)


def _nameless(document: Document) -> str:
    text = document.text
    for name in (document.subject, *document.mentions):
        text = text.replace(name, "")
    return text


def _of_facts(
    facts: Sequence[Fact], lengths: Mapping[str, int], tokenizer: Any
) -> Iterator[Quantity]:
    groups: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        groups[fact.strata["frequency"]].append(fact)
    answers = sorted({fact.prompts[0].target for fact in facts})
    tokens = dict(zip(answers, map(len, _cut(tokenizer, answers)), strict=True))

    def of(name: str, values: Callable[[Fact], Iterable[str]]) -> Quantity:
        return Quantity(
            name=name,
            kind="categorical",
            values={
                group: [value for fact in mine for value in values(fact)]
                for group, mine in groups.items()
            },
        )

    yield of("relations asked", lambda fact: [fact.relation])
    yield of("answers", lambda fact: [fact.object])
    yield of("tokens of answers", lambda fact: [str(tokens[fact.prompts[0].target])])
    yield of("kinds of prompts", lambda fact: [_kind(prompt) for prompt in fact.prompts])
    yield Quantity(
        name="length of prompts, tokens",
        kind="continuous",
        values={
            group: [lengths[prompt.clean] for fact in mine for prompt in fact.prompts]
            for group, mine in groups.items()
        },
    )


def _kind(prompt: Prompt) -> str:
    return f"{prompt.use or 'any'}, {prompt.kind or 'paraphrase'}"


def _cut(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, in one call."""
    if not texts:
        return []
    return tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)[
        "input_ids"
    ]
