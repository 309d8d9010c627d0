import base64
import io

import numpy as np
import pytest
from PIL import Image

from sapper.report import pictures, words


def opened(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "–"), (0.0, "0 %"), (1.0, "100 %"), (0.9999, ">99.9 %"), (0.0001, "<0.1 %"), (0.964, "96.4 %")],
)
def test_percent_rounds_nothing_to_all_or_none(share: float | None, text: str) -> None:
    assert words.percent(share).replace(words.THIN, " ") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (0.0, "0"), (0.03137, "0.0314"), (12345.0, "12 345"), (1e-6, "1.0e-06")],
)
def test_number(value: float | None, text: str) -> None:
    assert words.number(value).replace(words.THIN, " ") == text


@pytest.mark.parametrize(
    ("threat", "shape", "clause"),
    [
        ("linf:0.1", (1, 8, 8), "pixels may change by up to 0.1"),
        ("linf:8/255", (3, 8, 8), "colour values may change by up to 8/255"),
        ("l2:0.5", (30,), "the whole change may be up to 0.5 long (L2)"),
        ("l1:5", (30,), "the changes may add up to 5 (L1)"),
        ("l0:14.5%", (1, 8, 8), "14.5 % of the pixels may change freely"),
        ("l0:112", (30,), "112 features may change freely"),
    ],
)
def test_threats_in_words(threat: str, shape: tuple[int, ...], clause: str) -> None:
    assert words.Budget.parse(threat).when(shape).replace(words.THIN, " ") == clause


def test_distance_has_its_unit() -> None:
    assert words.distance(0.1, words.Budget.parse("linf:0.1"), 64) == "0.1 in L∞"
    assert words.distance(16, words.Budget.parse("l0:50%"), 64).replace(words.THIN, " ") == "16 features (25.0 %)"
    assert words.distance(None, words.Budget.parse("l0:50%"), 64) == words.NONE


def test_photograph_keeps_the_values() -> None:
    grey = np.array([[-1.0, 0.0], [1.0, 5.0]])
    assert opened(pictures.photograph(grey, (-1.0, 1.0), 224))[..., 0].tolist() == [[0, 128], [255, 255]]
    colour = np.zeros((3, 2, 2))
    colour[0, 0, 1] = 1
    assert opened(pictures.photograph(colour, (0.0, 1.0), 224))[0, 1].tolist() == [255, 0, 0]


def test_change_map_diverges_around_zero() -> None:
    shown = opened(pictures.change_map(np.array([[0.0, 0.1], [-0.1, 0.001]]), 0.1, 224))
    assert tuple(shown[0, 0]) == pictures.ZERO
    assert tuple(shown[0, 1]) == pictures.POSITIVE
    assert tuple(shown[1, 0]) == pictures.NEGATIVE
    assert tuple(shown[1, 1]) != pictures.ZERO


def test_change_map_loses_no_single_pixel_of_a_large_picture() -> None:
    change = np.zeros((3, 1000, 700))
    change[1, 501, 333] = -1
    shown = opened(pictures.change_map(change, 1.0, 224))
    assert max(shown.shape) <= 224
    assert (shown == pictures.NEGATIVE).all(-1).sum() == 1


def test_no_change_is_white() -> None:
    shown = opened(pictures.change_map(np.zeros((1, 3, 3)), 0.0, 224))
    assert (shown == pictures.ZERO).all()
