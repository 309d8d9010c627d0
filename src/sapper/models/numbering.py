"""Which class of the data a model means: the models of other libraries name their classes as they like."""

from collections.abc import Sequence

import numpy as np

from sapper.errors import ModelError

MOST_GAPS = 1000
"""Numbers left out of the classes; a model with more is taken to number something else."""


def numbers_of(names: Sequence[object] | np.ndarray) -> np.ndarray:
    """The data's class for each of a model's.

    Whole numbers from 0 up stand for themselves, also when written as text or floats. Anything else, such as `cat` and
    `dog`, or -1 and 1, stands for its place in the list, which libraries keep sorted as folders of images are.

    Raises:
        ModelError: Fewer than two classes, one named twice, or numbers with large gaps.
    """
    values = [name.item() if isinstance(name, np.generic) else name for name in names]
    if len(values) < 2 or len(set(values)) < len(values):
        raise ModelError(f"expected two or more different classes, got {_some(values)}.")
    whole = [_whole(value) for value in values]
    found = [number for number in whole if number is not None]
    if len(found) < len(values) or len(set(found)) < len(values):
        return np.arange(len(values))
    if max(found) >= len(values) + MOST_GAPS:
        raise ModelError(f"expected classes numbered from 0 up, got {_some(values)}: number them anew and train again.")
    return np.array(found)


def spread(scores: np.ndarray, numbers: np.ndarray, least: np.ndarray | float) -> np.ndarray:
    """Scores with a column for each of the data's classes; those that the model does not know get `least`."""
    count = int(numbers.max()) + 1
    if count == len(numbers) and (numbers == np.arange(count)).all():
        return scores
    whole = np.empty((len(scores), count), scores.dtype)
    whole[:] = least
    whole[:, numbers] = scores
    return whole


def _whole(value: object) -> int | None:
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdecimal() and len(value) < 16 else None
    if isinstance(value, bool | int | float) and value >= 0 and value == value // 1:
        return int(value)
    return None


def _some(values: list[object]) -> str:
    return ", ".join(map(repr, values[:4])) + (" and more" if len(values) > 4 else "")
