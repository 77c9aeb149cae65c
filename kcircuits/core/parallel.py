"""Facts are independent of each other: numpy works on several at once, results in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Threads: numpy lets go of the interpreter where it works on arrays. More than some wait for it.
MAX_WORKERS = 4
# Items begun ahead of the one that is waited for, per thread: enough that none idles, few enough
# that a stream of a thousand facts is never in memory.
_AHEAD = 2


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, n_workers: int | None = None
) -> Iterator[Result]:
    """``map``, by several threads; the same results in the same order, whatever their number.

    Args:
        function: Called once for each item, with nothing shared.
        items: Taken a few at a time, by the caller's thread.
        n_workers: Threads; default one per processor that this process may use, at most 4.
    """
    n_threads = min(len(os.sched_getaffinity(0)), MAX_WORKERS) if n_workers is None else n_workers
    if n_threads < 2:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > _AHEAD * n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
