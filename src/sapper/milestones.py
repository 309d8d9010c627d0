"""The numbers of questions at which a curve is told: round ones, ten to each power of ten. Imports no torch."""

from bisect import bisect_left, bisect_right
from itertools import product

_ROUND = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)
MILESTONES = (*range(1, 10), *(power * one for power, one in product((1, 10, 100, 1_000, 10_000, 100_000), _ROUND)))
"""From 1 to 8 million."""


def place(questions: int) -> int:
    """Of the first milestone that is no less, or of the last."""
    return min(bisect_left(MILESTONES, questions), len(MILESTONES) - 1)


def until(most: int) -> list[int]:
    """Those below `most`, and `most` itself."""
    return [*(one for one in MILESTONES if one < most), most]


def reached(times: int) -> list[int]:
    """For each milestone how many of them, so many times, are within it."""
    return [bisect_right(MILESTONES, one // times) for one in MILESTONES]
