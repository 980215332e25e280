"""The largest micro-batch that fits, from a few measurements. Pure.

On a CPU nothing refuses a size that does not fit: the kernel kills the process. So a size is tried only when
the line through the two largest sizes that fitted predicts that it fits. The result was measured to fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def largest_that_fits(sizes: Sequence[int], load: Callable[[int], float]) -> int | None:
    """Return the largest of the ascending `sizes` whose load is at most 1, or None.

    `load(size)` measures the share of the usable memory that a size takes; infinite if it ran out. Half of
    the smallest size is measured first, if possible, to find the part that does not grow with the size.
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
        # After a wrong prediction, bisect what is left.
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
    # If a smaller size took more, growth is below the noise.
    return load + max(0.0, load - less) * (size - last) / (last - before)


def pass_sizes(share: int, least: int, most: int) -> list[int]:
    """Return the ascending sizes from `least` to `most` that cut `share` samples into even passes.

    Any other size needs as many passes as the next smaller of these. A share below `least` is one pass; if no
    even size lies between the bounds, `most` is the only size.
    """
    if share <= least:
        return [share]
    sizes = {math.ceil(share / passes) for passes in range(1, share + 1)}
    return sorted(size for size in sizes if least <= size <= most) or [min(most, share)]
