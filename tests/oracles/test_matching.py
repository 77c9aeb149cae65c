"""Matching of groups against slow twins, closed forms, and groups that differ on purpose."""

import math

import numpy as np
import pytest

from kcircuits.analysis.matching import Quantity, compare_groups, js_divergence
from kcircuits.errors import UsageError


def slow_divergence(first: list[int], second: list[int]) -> float:
    """The mean of both Kullback-Leibler divergences from the mixture."""
    total = 0.0
    for counts, other in ((first, second), (second, first)):
        for a, b in zip(counts, other, strict=True):
            p, q = a / sum(counts), b / sum(other)
            if p:
                total += p * math.log2(p / ((p + q) / 2)) / 2
    return total


def slow_ks(first: list[float], second: list[float]) -> float:
    """The largest difference between two empirical distribution functions."""

    def share(values: list[float], x: float) -> float:
        return sum(value <= x for value in values) / len(values)

    return max(abs(share(first, x) - share(second, x)) for x in first + second)


def test_divergence_equals_its_slow_twin() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        first, second = rng.integers(0, 5, (2, 7)) + np.array([[1] + [0] * 6])
        expected = slow_divergence(first.tolist(), second.tolist())
        assert float(js_divergence(first, second)) == pytest.approx(expected, abs=1e-12)


def test_divergence_of_equal_and_of_disjoint_groups() -> None:
    assert float(js_divergence(np.array([2, 4]), np.array([1, 2]))) == pytest.approx(0, abs=1e-15)
    assert float(js_divergence(np.array([3, 0]), np.array([0, 5]))) == pytest.approx(1)


def test_equal_lengths_match_and_others_do_not() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(20, 60, 80).tolist()
    shifted = [length + 12 for length in lengths]
    values = {"trained": lengths, "held-out": lengths[::-1], "longer": shifted}
    quantity = Quantity(name="tokens", kind="continuous", values=values)
    by_pair = {match.groups: match for match in compare_groups([quantity])}
    same = by_pair["trained", "held-out"]
    assert (same.p, same.statistic, same.is_matched) == (1.0, 0.0, True)
    other = by_pair["trained", "longer"]
    assert other.statistic == pytest.approx(slow_ks(lengths, shifted))
    assert not other.is_matched
    assert other.p is not None
    assert compare_groups([quantity], min_p=other.p / 2)[1].is_matched


def test_floor_is_what_samples_of_one_distribution_have() -> None:
    """Of groups drawn alike about 1 - .95 lie beyond the limit; the floor is their mean."""
    rng = np.random.default_rng(2)
    beyond, floors, seen = 0, [], []
    for _ in range(200):
        values = {name: rng.integers(0, 6, 60).astype(str).tolist() for name in "ab"}
        (match,) = compare_groups([Quantity(name="x", kind="categorical", values=values)])
        beyond += not match.is_matched
        floors.append(match.floor)
        seen.append(match.statistic)
    assert 2 <= beyond <= 22  # 10 expected; 4 standard deviations
    assert np.mean(floors) == pytest.approx(np.mean(seen), rel=0.15)


def test_another_distribution_is_beyond_the_limit() -> None:
    rng = np.random.default_rng(3)
    values = {
        "a": rng.integers(0, 6, 200).astype(str).tolist(),
        "b": rng.binomial(5, 0.5, 200).astype(str).tolist(),
    }
    (match,) = compare_groups([Quantity(name="x", kind="categorical", values=values)])
    assert match.test == "JS"
    assert match.limit is not None
    assert match.statistic > 2 * match.limit
    assert not match.is_matched
    again = compare_groups([Quantity(name="x", kind="categorical", values=values)])
    assert again == [match]


def test_what_cannot_be_compared_is_refused() -> None:
    quantity = Quantity(name="tokens", kind="continuous", values={"a": [1.0], "b": []})
    with pytest.raises(UsageError, match="group 'b' has no tokens"):
        compare_groups([quantity])
    with pytest.raises(UsageError, match="min_p is 2"):
        compare_groups([], min_p=2)
