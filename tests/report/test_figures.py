import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from sapper.report import figures

DIGITS = [str(i) for i in range(10)]
UNIT = np.linspace(0, 1, 41)


def texts(svg: str) -> list[str]:
    """What a reader sees, and that the file is whole and asks for nothing from elsewhere."""
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg")
    assert float(root.attrib["width"]) > 0 < float(root.attrib["height"])
    assert not re.search(r"href=|url\((?!#)|@import|<(script|image|style|foreignObject)", svg)
    assert "nan" not in svg.lower()
    return ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text")]


def matrix(values: np.ndarray, names: list[str], **more: bool) -> str:
    return figures.matrix(
        values, names, names, title="Success", row_title="source", column_title="target", digits=1, unit="%",
        means=more.get("means", False),
    )  # fmt: skip


def test_matrix_shows_every_number_and_no_nan() -> None:
    values = np.arange(100.0).reshape(10, 10) + 0.3
    values[np.diag_indices(10)] = np.nan
    shown = texts(matrix(values, DIGITS))
    for value in values[np.isfinite(values)]:
        assert f"{value:.1f}" in shown
    assert {"Success, %", "source", "target", "lightest 1.3, darkest 98.3"} <= set(shown)
    assert sum("." in text and " " not in text for text in shown) == 90
    assert all(shown.count(digit) == 2 for digit in DIGITS)


def test_matrix_means_leave_out_what_is_empty() -> None:
    shown = texts(matrix(np.array([[np.nan, 1.0], [4.0, np.nan]]), ["a", "b"], means=True))
    assert shown.count("mean") == 2
    assert shown.count("1.0") == 3  # the cell, its row, its column
    assert "2.5" in shown


def test_matrix_takes_the_same_name_twice_and_hostile_ones() -> None:
    evil = '"];alert(1)</text><script>'
    shown = texts(matrix(np.array([[1.0, -0.04], [3.0, 4.0]]), [evil, evil]))
    assert sum(text.startswith('"];alert(1)') for text in shown) == 4
    assert "0.0" in shown


@pytest.mark.parametrize("values", [np.full((2, 2), np.nan), np.full((2, 2), 5.0)])
def test_matrix_of_nothing_or_of_one_value(values: np.ndarray) -> None:
    assert "source" in texts(matrix(values, ["a", "b"]))


def test_matrix_refuses_names_that_do_not_fit() -> None:
    with pytest.raises(AssertionError, match="3 × 3"):
        matrix(np.zeros((2, 2)), ["a", "b", "c"])


def test_image_grid_is_crisp_and_blank_where_missing() -> None:
    images = np.zeros((10, 10, 1, 28, 28))
    images[0, 1, 0, 3, 5] = 1
    images[2, 3] = np.nan
    grid = Image.open(io.BytesIO(figures.image_grid(images, DIGITS, DIGITS, row_title="source", column_title="target")))
    pixels = np.asarray(grid).astype(int)
    assert min(pixels.shape[:2]) > 10 * 56
    left, top = pixels.shape[1] - 10 - 10 * 59 + 3, pixels.shape[0] - 10 - 10 * 59 + 3
    first = pixels[top : top + 56, left + 59 : left + 115]
    assert first[6:8, 10:12].min() == 255
    assert first.sum() == 4 * 3 * 255
    assert pixels[top + 2 * 59 : top + 2 * 59 + 56, left + 3 * 59 : left + 3 * 59 + 56].min() == 255
    assert pixels[top : top + 56, left + 56 : left + 59].min() == 255


def test_image_grid_in_colour_with_frames() -> None:
    images = np.random.default_rng(0).random((1, 2, 3, 32, 32))
    framed = np.array([[True, False]])
    grid = Image.open(io.BytesIO(figures.image_grid(images, [""], ["a", "b"], scale=3, framed=framed)))
    pixels = np.asarray(grid).reshape(-1, 3)
    assert (pixels == (213, 94, 0)).all(1).sum() > 4 * 90
    assert grid.mode == "RGB"


def test_lines_differ_without_colour() -> None:
    series = {f"set {i}": (UNIT, UNIT ** (i + 1)) for i in range(9)}
    svg = figures.lines(series, title="ROC", x_title="false", y_title="true", diagonal=True, markers=True, x_format="%")
    shown = texts(svg)
    assert {*series, "ROC", "false", "true", "100%"} <= set(shown)
    drawn = re.findall(r'<path[^>]* stroke="(#\w+)" stroke-width="2.2" stroke-dasharray="([\d,]+)"', svg)
    assert len(set(drawn)) == 9


def test_lines_leave_out_what_is_not_finite_and_thin_what_is_long() -> None:
    many = np.linspace(0, 1, 100_000)
    broken = np.array([0.0, np.inf, 1.0]), np.array([0.0, 1.0, np.nan])
    svg = figures.lines({"long": (many, many), "broken": broken}, title="t", x_title="x", y_title="y")
    assert len(svg) < 60_000
    assert "long" in texts(svg)
    assert "long" not in texts(figures.lines({"long": (many, many)}, title="t", x_title="x", y_title="y"))


def test_surface_shows_its_marks_and_stays_small() -> None:
    x, y = np.meshgrid(np.linspace(0, 1, 101), np.linspace(0, 1, 101))
    values = 1 / (1 + np.exp(-30 * (np.minimum(x, y) - 0.4)))
    values[0, 0] = np.nan
    marks = [figures.Mark(1, 0.37, "F = 0.11"), figures.Mark(0.2, 0.43, "F = 0.95")]
    svg = figures.surface(
        values, x[0], y[:, 0], title="AND", x_title="x₁", y_title="x₂", value_title="F", marks=marks
    )  # fmt: skip
    assert {"AND", "x₁", "x₂", "F", "F = 0.11", "F = 0.95"} <= set(texts(svg))
    assert len(svg) < 200_000


def squares(svg: str) -> list[tuple[float, float, str]]:
    found = re.findall(r'<path d="M([\d.]+),([\d.]+)h[^"]*" fill="(#\w{6})" stroke="#\w{6}"', svg)
    return [(float(x), float(y), fill) for x, y, fill in found]


def test_surface_is_drawn_upwards_and_diverges_only_around_zero() -> None:
    def fills(values: np.ndarray) -> list[tuple[float, float, str]]:
        grid = np.array([0.0, 1.0])
        return squares(
            figures.surface(values, grid, grid, title="", x_title="", y_title="", value_title="")
        )[: values.size]  # fmt: skip

    rising = fills(np.array([[0.0, 1.0], [2.0, 3.0]]))
    assert rising[0][1] > rising[2][1]  # the first row lies below
    assert rising[0][2] == "#f4f6f8"
    assert rising[3][2] == "#08407a"
    both = [fill for _, _, fill in fills(np.array([[-1.0, 1.0], [0.0, 0.5]]))]
    assert both[:2] == ["#055aa0", "#c45208"]
    assert both[2] == "#f7f7f5"


@pytest.mark.parametrize("shape", [(28, 28), (20, 31), (224, 180)])
def test_saliency_keeps_the_strongest(shape: tuple[int, int]) -> None:
    values = np.zeros(shape)
    values[3, 5], values[-1, -1] = 2.0, -1.0
    svg = figures.saliency(values, "towards 3")
    assert {"towards 3", "saliency"} <= set(texts(svg))
    assert [fill for _, _, fill in squares(svg)].count("#c45208") == 2  # in the map, and in the bar
    assert len(svg) < 60_000


def test_saliency_of_nothing() -> None:
    assert "empty" in texts(figures.saliency(np.zeros((5, 5)), "empty"))


def test_scatter_labels_do_not_run_into_each_other() -> None:
    x = np.array([0.0, 0.001, 0.5, 1.0, np.nan])
    svg = figures.scatter(x, x, list("abcde"), title="ρ = 1.00", x_title="A", y_title="H")
    shown = set(texts(svg))
    assert {"ρ = 1.00", "A", "H", "c", "d"} <= shown
    assert len(shown & {"a", "b"}) == 1
    assert "e" not in shown
    assert "A" in texts(figures.scatter(x, x, title="t", x_title="A", y_title="H"))


def test_takes_numbers_of_every_kind() -> None:
    for kind in (np.float32, np.int64, np.bool_):
        values = np.eye(2, dtype=kind)
        matrix(values, ["a", "b"], means=True)
        figures.surface(values, np.arange(2), np.arange(2), title="", x_title="", y_title="", value_title="")
        figures.saliency(values, "t")
        figures.lines({"a": (values[0], values[1])}, title="", x_title="", y_title="")
        figures.scatter(values[0], values[1], ["p", "q"], title="", x_title="", y_title="")


def test_the_same_figure_every_time() -> None:
    def draw() -> str:
        return figures.lines({"a": (UNIT, UNIT), "b": (UNIT, 1 - UNIT)}, title="t", x_title="x", y_title="y")

    assert draw() == draw()
