"""The answers of each relation that one tokenizer can be asked: of one token, or of two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kcircuits.core.batch import Answer
from kcircuits.errors import UsageError
from kcircuits.lab.benchmark.phrases import TWO_WORD_VALUES
from kcircuits.lab.benchmark.relations import RELATIONS

ANSWER_TOKENS: Mapping[str, tuple[str, ...]] = {
    "one": ("one",),
    "several": ("several",),
    "both": ("one", "several"),
}
"""The strata of answers that a spec asks for, by its field ``answers``."""
_LENGTHS = {"one": 1, "several": 2}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Candidates of every relation.

    Attributes:
        pools: By relation, then by stratum: the answers among which one is ranked.
        tokens: Token ids of each answer after a space.
    """

    pools: Mapping[str, Mapping[str, tuple[str, ...]]]
    tokens: Mapping[str, Answer]

    def can_oppose(self, target: str, foil: str) -> bool:
        """Whether two answers have as many tokens, and differ in the first one."""
        first, second = self.tokens[target], self.tokens[foil]
        return len(first) == len(second) and first[0] != second[0]


def find_answers(
    relations: Sequence[str], strata: Sequence[str], n_candidates: int, tokenizer: Any
) -> Answers:
    """The first answers of each relation and stratum, in the order in which they are written.

    Raises:
        UsageError: There are fewer than ``n_candidates``.
    """
    written = {
        (name, stratum): RELATIONS[name].values if stratum == "one" else TWO_WORD_VALUES[name]
        for name in relations
        for stratum in strata
    }
    values = sorted({value for answers in written.values() for value in answers})
    texts = [f" {value}" for value in values]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    tokens = {value: tuple(ids) for value, ids in zip(values, encoded, strict=True)}
    pools: dict[str, dict[str, tuple[str, ...]]] = {name: {} for name in relations}
    for (name, stratum), answers in written.items():
        usable = [
            value
            for value in answers
            if len(tokens[value]) == _LENGTHS[stratum]
            and tokenizer.unk_token_id not in tokens[value]
        ]
        if len(usable) < n_candidates:
            raise UsageError(
                f"relation {name} has {len(usable)} answers of {_LENGTHS[stratum]} token(s) for "
                f"this tokenizer; {n_candidates} were asked for",
                field="prompts.candidates",
                hint=f"ask for at most {len(usable)}, or leave the relation out",
            )
        pools[name][stratum] = tuple(usable[:n_candidates])
    return Answers(pools=pools, tokens=tokens)
