"""Names for invented people, of one token each, so that all prompts about them align.

A first name opens a prompt as often as it stands inside one, and many tokenizers cut the two
cases differently: it has to be one token in both. Surnames always follow a space.
"""

from typing import TYPE_CHECKING

import numpy as np

from kcircuits.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    Young"""
)


def is_single_token(tokenizer: "PreTrainedTokenizerBase", text: str) -> bool:
    """Whether ``text``, leading space included, is exactly one known token."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return len(ids) == 1 and ids[0] != tokenizer.unk_token_id  # type: ignore[arg-type]


def invent_names(
    tokenizer: "PreTrainedTokenizerBase", n_names: int, rng: np.random.Generator
) -> list[str]:
    """Full names of two tokens; no first name and no surname occurs twice.

    Raises:
        UsageError: The tokenizer has fewer single-token names than are wanted.
    """
    first = [
        name
        for name in FIRST_NAMES
        if is_single_token(tokenizer, name) and is_single_token(tokenizer, f" {name}")
    ]
    last = [name for name in SURNAMES if is_single_token(tokenizer, f" {name}")]
    if n_names > min(len(first), len(last)):
        raise UsageError(
            f"{n_names} people were asked for; this tokenizer has {len(first)} first names and "
            f"{len(last)} surnames of one token",
            field="people",
            hint=f"ask for at most {min(len(first), len(last))} people",
        )
    firsts, lasts = rng.permutation(first)[:n_names], rng.permutation(last)[:n_names]
    return [f"{a} {b}" for a, b in zip(firsts, lasts, strict=True)]
