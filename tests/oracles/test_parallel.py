"""Work on several facts at once: results in order, errors as they come, little held in memory."""

import threading
import time

import pytest

from kcircuits.core.parallel import ordered_map


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_results_come_in_order_whatever_finishes_first(n_workers):
    def square(i):
        time.sleep(0.002 * (7 - i % 7))
        return i * i

    assert list(ordered_map(square, range(23), n_workers=n_workers)) == [i * i for i in range(23)]


def test_several_threads_work():
    names = set()
    barrier = threading.Barrier(2, timeout=30)  # one thread alone would wait in vain

    def meet(_):
        barrier.wait()
        names.add(threading.current_thread().name)

    list(ordered_map(meet, range(2), n_workers=2))
    assert len(names) == 2


def test_an_error_is_raised_at_its_place():
    def fail(i):
        if i == 2:
            raise ValueError("item 2")
        return i

    found = []
    with pytest.raises(ValueError, match="item 2"):
        found.extend(ordered_map(fail, range(9), n_workers=2))


def test_items_are_taken_a_few_at_a_time():
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    results = ordered_map(lambda i: i, items(), n_workers=2)
    assert next(results) == 0
    assert len(taken) <= 6
    results.close()
