import numpy as np
import pytest

from sapper.data.checks import Arrays, check
from sapper.errors import DataError

GREY = np.array([[[0, 255], [51, 102]]], np.uint8)  # one image of 2×2
ONE = np.zeros(1, np.int64)


def checked(x, y=ONE, classes=None, bounds=(0.0, 1.0)):
    return check("set", Arrays(np.asarray(x), np.asarray(y), classes), bounds)


def test_bytes_become_floats_that_span_the_bounds():
    x = checked(GREY).x
    assert x.shape == (1, 1, 2, 2)
    assert x.dtype.is_floating_point
    assert x.flatten().tolist() == pytest.approx([0, 1, 0.2, 0.4])
    assert checked(GREY, bounds=(-1, 1)).x.flatten().tolist() == pytest.approx([-1, 1, -0.6, -0.2])
    assert checked(GREY, bounds=(0, 255)).x.flatten().tolist() == [0, 255, 51, 102]


def test_bytes_keep_their_255_levels_to_the_bit():
    x = checked(np.arange(256, dtype=np.uint8).reshape(1, 256)).x
    assert (x * 255).round().flatten().tolist() == list(range(256))
    assert x.max() == 1.0


def test_wider_integers_are_images_if_they_look_like_bytes():
    images = np.full((1, 1, 2, 2), 255, np.int64)
    assert checked(images).x.max() == 1
    with pytest.raises(DataError, match=r"got \[255, 255\]"):  # features, not pixels
        checked(images.reshape(1, 4))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 5, 6, 3), (3, 5, 6)),
        ((2, 5, 6, 1), (1, 5, 6)),
        ((2, 3, 6, 3), (3, 6, 3)),
        ((2, 5, 6), (1, 5, 6)),
        ((2, 9), (9,)),
    ],
)
def test_channels_go_first_where_that_is_unambiguous(shape, expected):
    assert checked(np.zeros(shape, np.uint8), [0, 0]).shape == expected


def test_channels_move_with_their_values():
    image = np.zeros((1, 5, 6, 3), np.uint8)
    image[0, 4, 2, 1] = 255
    assert checked(image).x.nonzero().tolist() == [[0, 1, 4, 2]]


def test_floats_are_never_rearranged():
    assert checked(np.zeros((1, 5, 6, 3))).shape == (5, 6, 3)


def test_float_rounding_is_clipped():
    x = checked([[1 + 1e-7, -1e-8]]).x
    assert (x.min(), x.max()) == (0, 1)


def test_the_users_array_is_left_alone():
    x = np.array([[1 + 1e-7, 0.5]])
    checked(x)
    assert x[0, 0] > 1


def test_labels_become_int64_and_name_the_classes():
    data = checked(np.zeros((2, 3)), np.array([[2], [0]], np.uint8))
    assert data.y.tolist() == [2, 0]
    assert data.classes == ("0", "1", "2")
    assert (len(data), data.shape) == (2, (3,))


def test_the_digest_changes_with_samples_labels_and_bounds():
    x, y = np.zeros((2, 3)), np.array([0, 1])
    other = x.copy()
    other[1, 2] = 1
    sets = [checked(x, y), checked(other, y), checked(x, y[::-1]), checked(x, y, bounds=(0, 2))]
    assert len({data.digest() for data in sets}) == 4
    assert checked(x, y).digest() == sets[0].digest()


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ([[0.0, np.nan]], [0], "NaN or infinity in 1 of 1"),
        ([[0.0, np.inf], [0, 0]], [0, 1], "NaN or infinity in 1 of 2"),
        ([[0.0, 1.5]], [0], r"values in \[0, 1\], got \[0, 1.5\]"),
        ([[-2.1, 2.8]], [0], r"got \[-2.1, 2.8\].*--mean"),
        ([[1e300, 0.0]], [0], "1e[+]300"),
        (np.zeros((0, 3)), np.zeros(0, int), "empty set"),
        ([0.0, 0.5], [0, 1], r"shape \(2,\)"),
        (np.zeros((2, 3)), [0], "2 samples and 1 labels"),
        (np.zeros((1, 3)), [-1], "labels from 0 up, got -1"),
        (np.zeros((1, 3)), [0.0], "whole numbers as labels"),
        (np.zeros((1, 3)), np.eye(2, dtype=int)[:1], "argmax"),
        (np.array([["a"]]), [0], "samples as numbers"),
    ],
)
def test_bad_data_are_refused(x, y, said):
    with pytest.raises(DataError, match=said):
        checked(x, y)


def test_labels_beyond_the_class_names_are_refused():
    with pytest.raises(DataError, match="labels 0 to 1, one a class name, got 2"):
        checked(np.zeros((1, 3)), [2], ("a", "b"))


@pytest.mark.parametrize("bounds", [(1, 0), (0, 0), (0, float("inf")), (float("nan"), 1)])
def test_bad_bounds_are_refused(bounds):
    with pytest.raises(DataError, match="two finite numbers"):
        checked(np.zeros((1, 3)), bounds=bounds)


def test_a_name_is_safe_in_a_file_name():
    assert check("../a b/c.npz", Arrays(np.zeros((1, 2)), ONE), (0, 1)).name == "a-b_c.npz"
