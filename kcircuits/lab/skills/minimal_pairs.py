"""Grammaticality: of two sentences that differ in one word the model shall prefer the right one.

Sentences are templates of our own, filled from word lists. In the manner of BLiMP (Warstadt et al.
2020, arXiv:1912.00582): the whole sentence's log-probability decides, nothing is normalised.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from kcircuits.lab.skills.skill import Choice, choice_skill

N_PER_PHENOMENON = 6


@dataclass(frozen=True, kw_only=True)
class Phenomenon:
    """One rule of grammar.

    Attributes:
        templates: Sentences with ``{0}``, ``{1}`` ... for fillers and ``{x}`` for what differs.
        fillers: Of each slot the words that may stand there.
        forms: Right and wrong word for ``{x}``.
    """

    templates: tuple[str, ...]
    fillers: tuple[tuple[str, ...], ...]
    forms: tuple[tuple[str, str], ...]

    def draw(self, rng: np.random.Generator) -> tuple[str, str]:
        """A right and a wrong sentence."""
        template = self.templates[rng.integers(len(self.templates))]
        words = [choices[rng.integers(len(choices))] for choices in self.fillers]
        right, wrong = self.forms[rng.integers(len(self.forms))]
        return template.format(*words, x=right), template.format(*words, x=wrong)


_ONE = ("doctor", "farmer", "singer", "teacher", "lawyer", "pilot", "baker", "student")
_MANY = tuple(f"{noun}s" for noun in _ONE)
_PLACE = ("in the kitchen", "behind the house", "near the river", "at the station", "on the stairs")
_THING = ("book", "lamp", "chair", "letter", "shirt", "ticket", "photo", "map")
_THINGS = tuple(f"{noun}s" for noun in _THING)

PHENOMENA: Mapping[str, Phenomenon] = MappingProxyType(
    {
        "agreement-singular": Phenomenon(
            templates=("The {0} {x} {1}.", "Every day the {0} {x} {1}."),
            fillers=(_ONE, _PLACE),
            forms=(
                ("waits", "wait"),
                ("works", "work"),
                ("is", "are"),
                ("has lunch", "have lunch"),
            ),
        ),
        "agreement-plural": Phenomenon(
            templates=("The {0} {x} {1}.", "In the evening the {0} {x} {1}."),
            fillers=(_MANY, _PLACE),
            forms=(("wait", "waits"), ("work", "works"), ("are", "is"), ("were", "was")),
        ),
        "agreement-over-noun": Phenomenon(
            templates=(
                "The {0} beside the {1} {x} old.",
                "The {0} that belongs to the {1} {x} red.",
            ),
            fillers=(_THING, _MANY),
            forms=(("is", "are"), ("was", "were"), ("looks", "look")),
        ),
        "agreement-over-clause": Phenomenon(
            templates=(
                "The {0} that the {1} knows {x} tired.",
                "The {0} whom the {1} met {x} kind.",
            ),
            fillers=(_MANY, _ONE),
            forms=(("are", "is"), ("were", "was"), ("seem", "seems")),
        ),
        "determiner-noun": Phenomenon(
            templates=("Yesterday she sold {x} {0}.", "We will need {x} {0} tomorrow."),
            fillers=(_THINGS,),
            forms=(("these", "this"), ("those", "that"), ("many", "every"), ("several", "each")),
        ),
        "reflexive-number": Phenomenon(
            templates=("The {0} taught {x} to swim.", "The {0} saw {x} in the mirror."),
            fillers=(("boys", "girls", "children", "sisters", "brothers", "players", "actors"),),
            forms=(("themselves", "himself"), ("themselves", "herself")),
        ),
        "reflexive-gender": Phenomenon(
            templates=("My {0} blamed {x} for it.", "The {0} bought {x} a coat."),
            fillers=(("brother", "uncle", "father", "grandfather", "son", "nephew", "husband"),),
            forms=(("himself", "herself"), ("himself", "itself")),
        ),
        "participle": Phenomenon(
            templates=("The {0} has {x} it.", "By noon the {0} had {x} everything."),
            fillers=(_ONE,),
            forms=(
                ("eaten", "ate"),
                ("written", "wrote"),
                ("taken", "took"),
                ("seen", "saw"),
                ("forgotten", "forgot"),
                ("given away", "gave away"),
            ),
        ),
        "after-auxiliary": Phenomenon(
            templates=("The {0} can {x} very well.", "Perhaps the {0} will {x} again soon."),
            fillers=(_ONE,),
            forms=(("sing", "sings"), ("swim", "swims"), ("cook", "cooking"), ("dance", "danced")),
        ),
        "pronoun-case": Phenomenon(
            templates=("Last week {x} visited the {0}.", "I think {x} wrote to the {0}."),
            fillers=(_MANY,),
            forms=(("he", "him"), ("she", "hers"), ("they", "them"), ("we", "us")),
        ),
    }
)


def minimal_pair_items(tokenizer: Any, rng: np.random.Generator) -> list[Choice]:
    """Six different pairs of each phenomenon; which of the two is right comes by chance."""
    del tokenizer
    items = []
    for phenomenon in PHENOMENA.values():
        pairs: dict[tuple[str, str], None] = {}
        while len(pairs) < N_PER_PHENOMENON:
            pairs[phenomenon.draw(rng)] = None
        for right, wrong in pairs:
            answer = int(rng.integers(2))
            options = (wrong, right) if answer else (right, wrong)
            items.append(Choice(options=options, answer=answer))
    return items


MINIMAL_PAIRS = choice_skill(
    "minimal-pairs", "which of two sentences is grammatical", minimal_pair_items
)
