import numpy as np
import pytest

from sapper.errors import ModelError
from sapper.models.numbering import numbers_of, spread


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (np.arange(10), list(range(10))),
        (np.array([0, 1, 2, 4]), [0, 1, 2, 4]),  # no sample of class 3 to learn from
        (np.array([1, 2, 3]), [1, 2, 3]),
        (np.array(["0", "1", "2"]), [0, 1, 2]),
        (np.array(["0", "1", "10", "2"]), [0, 1, 10, 2]),  # as text is sorted
        (np.array([0.0, 1.0, 2.0]), [0, 1, 2]),
        (np.array([False, True]), [0, 1]),
        (np.array(["cat", "dog"]), [0, 1]),
        (np.array([-1, 1]), [0, 1]),
        (np.array(["0", "0.5"]), [0, 1]),
        (np.array(["1", "01"]), [0, 1]),  # two classes for one number
        (np.array([0.5, np.nan]), [0, 1]),
        (np.array([0.0, np.inf]), [0, 1]),
        (np.array(["a", 3], dtype=object), [0, 1]),
        (["7", "²"], [0, 1]),
        (["0", "9" * 5000], [0, 1]),
    ],
)
def test_whole_numbers_stand_for_themselves_and_all_else_for_its_place(names, numbers: list[int]) -> None:
    assert numbers_of(names).tolist() == numbers


@pytest.mark.parametrize("names", [np.array([3]), np.array([]), ["a", "a"], np.array([0, 10**12])])
def test_classes_that_cannot_be_numbered_are_refused(names) -> None:
    with pytest.raises(ModelError, match="expected"):
        numbers_of(names)


def test_columns_go_to_their_classes() -> None:
    scores = np.array([[0.1, 0.6, 0.3]])
    assert spread(scores, np.array([0, 1, 2]), 0.0) is scores
    assert spread(scores, np.array([0, 2, 1]), 0.0).tolist() == [[0.1, 0.3, 0.6]]
    assert spread(scores, np.array([1, 2, 4]), 0.0).tolist() == [[0, 0.1, 0.6, 0, 0.3]]
