"""Whether groups of documents or facts differ in what they should not differ in.

A continuous quantity (the length of a document) is compared by the two-sample Kolmogorov-Smirnov
test. A categorical one (which sentence, which answer) by the Jensen-Shannon divergence, in bits,

    JS = H((p + q) / 2) - (H(p) + H(q)) / 2,

which samples of one distribution have too: its floor is what two groups of the same sizes have
when their members are dealt anew from both. A group matches where it lies within the floor.

Values that depend on each other (documents about one person) make p values too small and floors too
low, never the reverse: what passes here is matched.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.stats import ks_2samp

from kcircuits.errors import UsageError

# Of a floor's draws; and the share of them that a matched group may not exceed.
N_DRAWS, FLOOR_QUANTILE = 400, 0.95
# Where all members are of one category, floor and limit are 0.
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What groups are compared in.

    Attributes:
        name: What it is, with its unit.
        kind: ``continuous`` or ``categorical``.
        values: Of every member of each group.
    """

    name: str
    kind: Literal["continuous", "categorical"]
    values: Mapping[str, Sequence[float] | Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Match:
    """Two groups compared in one quantity.

    Attributes:
        quantity: Its name.
        groups: The two groups.
        n: Members of each.
        test: ``KS`` or ``JS``.
        statistic: The largest difference of the distribution functions; or the divergence in bits.
        p: Of the Kolmogorov-Smirnov test; None for JS.
        floor: Mean divergence of groups dealt anew, and
        limit: that which a share of ``quantile`` of them stay within; None for KS.
        is_matched: p is at least what was asked for; or the divergence within the limit.
    """

    quantity: str
    groups: tuple[str, str]
    n: tuple[int, int]
    test: Literal["KS", "JS"]
    statistic: float
    p: float | None
    floor: float | None
    limit: float | None
    is_matched: bool


def compare_groups(
    quantities: Iterable[Quantity],
    *,
    min_p: float = 0.05,
    quantile: float = FLOOR_QUANTILE,
    seed: int = 0,
) -> list[Match]:
    """Every pair of groups in every quantity.

    Args:
        quantities: What to compare.
        min_p: Smallest p value of a continuous quantity that counts as matched.
        quantile: Share of groups dealt anew that a categorical quantity has to stay within.
        seed: Of the floors.

    Raises:
        UsageError: ``min_p`` or ``quantile`` is not within 0 to 1, or a group has no member.
    """
    for name, value in (("min_p", min_p), ("quantile", quantile)):
        if not 0 <= value <= 1:
            raise UsageError(f"{name} is {value:g}; expected 0 to 1", field=name)
    found = []
    for number, quantity in enumerate(quantities):
        for name, values in quantity.values.items():
            if not len(values):
                raise UsageError(f"group {name!r} has no {quantity.name}", field="groups")
        for place, pair in enumerate(combinations(quantity.values, 2)):
            generator = np.random.default_rng([seed, number, place])
            found.append(_compared(quantity, pair, min_p, quantile, generator))
    return found


def js_divergence(
    first: Int[np.ndarray, "*draw category"], second: Int[np.ndarray, "*draw category"]
) -> Float[np.ndarray, "*draw"]:
    """Jensen-Shannon divergence of two vectors of counts, in bits: 0 (alike) to 1 (apart)."""
    p, q = (counts / counts.sum(-1, keepdims=True) for counts in (first, second))
    divergence = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return np.maximum(divergence, 0.0)  # rounding goes below 0


def _compared(
    quantity: Quantity,
    pair: tuple[str, str],
    min_p: float,
    quantile: float,
    generator: np.random.Generator,
) -> Match:
    first, second = (np.asarray(quantity.values[name]) for name in pair)
    n = (len(first), len(second))
    if quantity.kind == "continuous":
        test = ks_2samp(first, second)
        p = float(test.pvalue)  # type: ignore[attr-defined]
        return Match(
            quantity=quantity.name,
            groups=pair,
            n=n,
            test="KS",
            statistic=float(test.statistic),  # type: ignore[attr-defined]
            p=p,
            floor=None,
            limit=None,
            is_matched=p >= min_p,
        )
    counts = _counts(first, second)
    divergence = float(js_divergence(counts[0], counts[1]))
    dealt = _dealt(counts, generator)
    limit = float(np.quantile(dealt, quantile))
    return Match(
        quantity=quantity.name,
        groups=pair,
        n=n,
        test="JS",
        statistic=divergence,
        p=None,
        floor=float(dealt.mean()),
        limit=limit,
        is_matched=divergence <= limit + _ROUNDING,
    )


def _counts(
    first: Shaped[np.ndarray, " first"], second: Shaped[np.ndarray, " second"]
) -> Int[np.ndarray, "2 category"]:
    categories, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    parts = (places[: len(first)], places[len(first) :])
    return np.stack([np.bincount(part, minlength=len(categories)) for part in parts])


def _dealt(
    counts: Int[np.ndarray, "2 category"], generator: np.random.Generator
) -> Float[np.ndarray, " draw"]:
    """Divergences of two groups whose members are dealt anew from both together."""
    together, n_first = counts.sum(0), int(counts[0].sum())
    first = generator.multivariate_hypergeometric(
        together, n_first, size=N_DRAWS, method="marginals"
    )
    return js_divergence(first, together - first)


def _entropy(p: Float[np.ndarray, "*draw category"]) -> Float[np.ndarray, "*draw"]:
    return -(p * np.log2(np.where(p > 0, p, 1.0))).sum(-1)
