"""From a steal folder to one HTML page: agreement, questions, and what was asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import numpy as np
import safetensors.numpy
from markupsafe import Markup

from sapper import disk, log
from sapper.report import charts, pictures, words
from sapper.theft_spec import Round, Spoils, read_spoils

_SEEDS, _SIDE = 8, 96  # how many seeds are shown, and pixels a side at most
_FULL, _NARROW = 1000, 340


@dataclass(frozen=True)
class Shown:
    """An input that was asked about, and what the endpoint took it for."""

    picture: str
    label: str


def write_theft(folder: Path) -> Path:
    """Writes `report.html` into a steal folder and returns its path.

    Raises:
        RunError: There is nothing to report yet, or the file cannot be written.
    """
    text = render(folder, read_spoils(folder))
    path = folder / "report.html"
    disk.write_bytes(path, text.encode())
    return path


def render(folder: Path, spoils: Spoils) -> str:
    loader = jinja2.PackageLoader("sapper.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"percent": words.percent, "interval": words.interval, "number": words.number}
    spec = log.read_spec(folder)
    content: dict[str, Any] = {
        "style": Markup(loader.get_source(environment, "style.css")[0]),  # our own file
        "spoils": spoils,
        "last": spoils.rounds[-1],
        "curve": None if spoils.agreement is None else (_curve(spoils, _FULL), _curve(spoils, _NARROW)),
        "rows": _rows(folder, spoils, tuple(spec.get("bounds", (0.0, 1.0)))),
        "spec": (folder / "spec.toml").read_text(encoding="utf-8"),
        "command": log.read_environment(folder).get("command", ""),
    }
    return environment.get_template("theft.html.jinja").render(content)


def _curve(spoils: Spoils, width: int) -> Markup:
    """Agreement against questions, both kinds counted."""
    rows = [_point(one) for one in spoils.rounds]
    base = alt.Chart(alt.InlineData(values=rows), width=width - 60, height=220)
    asked = alt.X("queries:Q", title="questions to the endpoint").scale(nice=False, zero=False)
    asked = asked.axis(format="~s", tickCount=3 if width < 500 else 8)
    share = alt.Y("agreement:Q", title="agreement").axis(format="%").scale(domain=[0, 1])
    line = base.mark_line(strokeWidth=2.2, color=charts.LINES[0], point=alt.OverlayMarkDef(size=60)).encode(
        x=asked, y=share
    )
    ends = base.mark_rule(strokeWidth=5, opacity=0.28, color=charts.LINES[0]).encode(x=asked, y="low:Q", y2="high:Q")
    return charts.drawn(alt.layer(ends, line), f"Agreement of the substitute with the endpoint, {width}")


def _point(one: Round) -> dict[str, float | None]:
    low, high = one.ci95 or (None, None)
    return {"queries": one.queries, "agreement": one.agreement, "low": low, "high": high}


def _rows(folder: Path, spoils: Spoils, bounds: tuple[float, float]) -> list[list[Shown | None]]:
    """Some seeds, each followed by what the rounds made of it, where that was new; nothing where they are no images."""
    shape = disk.read_shape(folder / "rounds" / "00" / "inputs.safetensors", "x")[1:]
    if not words.is_image(shape):
        return []
    found = [_shown(folder / "rounds" / f"{one.number:02}", spoils.classes, bounds) for one in spoils.rounds]
    columns = [column for column in found if column]
    return [[column.get(seed) for column in columns] for seed in columns[0]]


def _shown(folder: Path, names: list[str], bounds: tuple[float, float]) -> dict[int, Shown]:
    """What a round made of the first seeds that it moved, by their places."""
    asked, labels = safetensors.numpy.load_file(folder / "inputs.safetensors"), list[int]()
    sources = asked.get("source", np.arange(len(asked["x"])))
    rows = {int(sources[row]): row for row in np.flatnonzero(sources < _SEEDS)}
    while len(labels) <= max(rows.values(), default=-1):
        answer = safetensors.numpy.load_file(folder / "answers" / f"{len(labels):07}.safetensors")
        labels += answer["labels"].tolist()
    return {
        seed: Shown(pictures.photograph(asked["x"][row], bounds, _SIDE), words.class_name(labels[row], names))
        for seed, row in sorted(rows.items())
    }
