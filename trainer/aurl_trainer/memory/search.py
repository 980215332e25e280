"""The largest micro-batch that fits, from a few measurements. Pure.

On a CPU a size that does not fit is not refused: the kernel kills the process. So a size is tried only when
the line through the two largest sizes that fitted says that it will fit; what is tried is measured, so the
answer is a size that was seen to fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def largest_that_fits(sizes: Sequence[int], load: Callable[[int], float]) -> int | None:
    """Return the largest of the ascending `sizes` whose load is at most 1, or None when none is.

    `load(size)` measures which share of the usable memory a size takes; infinite when it ran out. Half of the
    smallest size is measured first, where there is one: it tells what does not grow with the size.
    """
    known: list[tuple[int, float]] = []
    for size in sorted({max(1, sizes[0] // 2), sizes[0]}):
        known.append((size, load(size)))
        if known[-1][1] > 1:
            return None
    low, high, failed = 0, len(sizes), False
    while high - low > 1:
        promising = [index for index in range(low + 1, high) if _predicted(known, sizes[index]) <= 1]
        if not promising:
            break
        # After a prediction that was wrong, halves of what is left end the search soon.
        index = min(promising[-1], max(low + 1, (low + high) // 2)) if failed else promising[-1]
        found = load(sizes[index])
        if found <= 1:
            low = index
            known.append((sizes[index], found))
        else:
            high, failed = index, True
    return sizes[low]


def _predicted(known: Sequence[tuple[int, float]], size: int) -> float:
    """Return the load of a larger `size` on the line through the last two points (one: through zero)."""
    last, load = known[-1]
    if len(known) == 1:
        return load * size / last
    before, less = known[-2]
    # A smaller size that took more says nothing but that the growth drowns in noise.
    return load + max(0.0, load - less) * (size - last) / (last - before)


def pass_sizes(share: int, least: int, most: int) -> list[int]:
    """Return the ascending sizes from `least` to `most` that cut `share` samples into even passes.

    Any other size makes as many passes as the next smaller of these. A share below `least` is one pass; where
    no even size lies between the bounds, `most` is the only one.
    """
    if share <= least:
        return [share]
    sizes = {math.ceil(share / passes) for passes in range(1, share + 1)}
    return sorted(size for size in sizes if least <= size <= most) or [min(most, share)]
