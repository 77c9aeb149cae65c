"""Names for invented people, of one token each, so that all prompts about them align.

A first name opens a prompt as often as it stands inside one, and many tokenizers cut the two
cases differently: it has to be one token in both. Surnames always follow a space.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kcircuits.errors import UsageError


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


FIRST_NAMES = words(
    """Adam Alan Albert Alex Alexander Alice Amy Andrea Andrew Angela Anna Anne Anthony Arthur
    Barbara Benjamin Beth Brian Bruce Carl Carol Caroline Catherine Charles Charlotte Chris
    Christine Christopher Claire Daniel David Dennis Diana Donald Dorothy Edward Eleanor Elizabeth
    Emily Emma Eric Ethan Eva Frank Fred Frederick Gary George Grace Greg Hannah Harold Harry
    Heather Helen Henry Howard Ian Irene Isabel Jack Jacob James Jane Janet Jason Jean Jennifer
    Jeremy Jessica Joan John Jonathan Joseph Joshua Joy Julia Julian Julie Justin Karen Kate
    Katherine Keith Kelly Ken Kevin Kim Larry Laura Lauren Lee Leon Leonard Lewis Lily Linda Lisa
    Louis Lucas Lucy Luke Margaret Maria Marie Mark Martha Martin Mary Matthew Max Melissa Michael
    Michelle Mike Nancy Nathan Nicholas Nicole Noah Nora Oliver Olivia Oscar Patricia Patrick Paul
    Peter Philip Rachel Ralph Ray Rebecca Richard Robert Robin Roger Ron Rose Roy Ruth Ryan Sam
    Samuel Sandra Sara Sarah Scott Sean Sharon Simon Sophia Stephen Steve Steven Stuart Susan Ted
    Teresa Thomas Tim Timothy Todd Tom Tony Victor Victoria Vincent Virginia Walter Wayne
    William"""
)

SURNAMES = words(
    """Abbott Allen Armstrong Bailey Baker Barnes Barrett Bennett Bishop Blair Boyd Bradley Brooks
    Burke Burns Butler Campbell Carpenter Carter Chambers Chapman Clarke Cole Coleman Collins
    Cooper Cox Crawford Cross Curtis Davies Dawson Dixon Douglas Duncan Edwards Elliott Ellis
    Evans Ferguson Fisher Fleming Fletcher Foster Fraser Freeman Gardner Gibson Gilbert Gordon
    Graham Griffin Hamilton Harper Harris Hart Harvey Hayes Henderson Hoffman Holmes Hudson Hughes
    Hunter Jenkins Jensen Johnston Knight Lambert Lane Lawrence Lawson Lloyd Logan Lynch Marshall
    Mason Matthews Mills Mitchell Morris Morrison Murphy Murray Myers Newman Norman Owen Palmer
    Parker Parsons Patterson Payne Perkins Peterson Phillips Porter Powell Quinn Ramsey Reed Reid
    Reynolds Richards Richardson Riley Roberts Robertson Robinson Rogers Russell Sanders Schmidt
    Shaw Shepherd Simpson Spencer Stevens Stewart Sullivan Thompson Tucker Turner Wagner Wallace
    Walsh Ward Warren Watson Weaver Weber Webster Wells Wheeler Wilkinson Wilson Wright
    Young Adams Andrews Austin Bates Beck Berry Bond Bryant Carr Chase Church Clayton Conway Craig
    Crane Dale Daly Drake Dunn Field Flynn Ford Fox Frost Gibbs Goodman Grant Graves Green Hale Hall
    Hardy Hill Holland Holt Hood Hopkins Horn Irving Jackson Jefferson Johnson Jones Kay Kennedy
    Kent King Klein Lang Leigh Little Long Lowe Maxwell May Miller Monroe Montgomery Moore
    Morgan Moss Nash Nelson Nixon Noble Page Park Pearson Perry Pierce Poole Pratt Price Rhodes
    Rice Ross Rowe Sharp Short Simmons Skinner Small Smith Snow Stanley Stark Steele Stern
    Stokes Stone Swan Sykes Taylor Temple Townsend Vaughan Walker Waters Watts West
    White Wilkins Williams Willis Winter Wolf Wood York"""
)


def are_single_tokens(tokenizer: Any, texts: Sequence[str]) -> list[bool]:
    """Which texts, their leading spaces included, are exactly one known token."""
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return [len(ids) == 1 and ids[0] != tokenizer.unk_token_id for ids in encoded]


def invent_names(tokenizer: Any, n_names: int, rng: np.random.Generator) -> list[str]:
    """Full names of two tokens, each unique; the first ones share no part with each other.

    Names go diagonally through the table of first names and surnames, so parts repeat only where
    more people are asked for than there are parts of a kind, and then as seldom as can be.

    Raises:
        UsageError: The tokenizer has fewer names than are wanted.
    """
    alone, inside = (
        are_single_tokens(tokenizer, [space + name for name in FIRST_NAMES]) for space in ("", " ")
    )
    firsts = [name for name, a, b in zip(FIRST_NAMES, alone, inside, strict=True) if a and b]
    is_usable = are_single_tokens(tokenizer, [f" {name}" for name in SURNAMES])
    lasts = [name for name, usable in zip(SURNAMES, is_usable, strict=True) if usable]
    if n_names > len(firsts) * len(lasts):
        raise UsageError(
            f"{n_names} people were asked for; this tokenizer has {len(firsts)} first names and "
            f"{len(lasts)} surnames of one token",
            field="people",
            hint=f"ask for at most {len(firsts) * len(lasts)} people",
        )
    firsts, lasts = (rng.permutation(names).tolist() for names in (firsts, lasts))
    round_length = math.lcm(len(firsts), len(lasts))
    return [
        f"{firsts[i % len(firsts)]} {lasts[(i + i // round_length) % len(lasts)]}"
        for i in range(n_names)
    ]
