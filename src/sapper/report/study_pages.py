"""From a study's folder to one HTML page, one Markdown document, and a table on the console."""

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sapper import disk
from sapper.claims import Figure, Outcome, Part
from sapper.errors import RunError
from sapper.report import study_markdown
from sapper.report import study_words as words
from sapper.report.study_words import ClaimLine, Column

COLOURS = {"met": "green", "missed": "bold red", "not comparable": "dim"}


def write_study(out: Path) -> tuple[Path, Path]:
    """Writes `study.html` and `study.md` into a finished study's folder.

    Returns:
        Their paths.

    Raises:
        RunError: The study is not finished or not whole, or the files cannot be written.
    """
    outcome = read_outcome(out)
    try:
        texts = {
            out / "study.html": render(outcome, out / "figures"),
            out / "study.md": study_markdown.document(outcome),
        }
    except (OSError, UnidentifiedImageError) as error:
        raise RunError(f"{out} is not whole: {error}. Run its command again.") from error
    for path, text in texts.items():
        _write(path, text)
    page, document = texts
    return page, document


def read_outcome(out: Path) -> Outcome:
    """The outcome of a finished study.

    Raises:
        RunError: It is not finished, or of another version.
    """
    try:
        return msgspec.json.decode((out / "study.json").read_bytes(), type=Outcome)
    except OSError as error:
        raise RunError(f"{out} has no study.json: the study is not finished; run its command again.") from error
    except msgspec.MsgspecError as error:
        raise RunError(f"{out / 'study.json'} is not an outcome that this version reads: {error}") from error


def print_outcome(outcome: Outcome, console: Console) -> None:
    """The claims as a table. Names come from files, so none of them is read as markup."""
    table = Table(title=Text(outcome.title), title_justify="left")
    for name in ("what the paper says", "where", "paper", "accepted", "measured", "verdict"):
        table.add_column(name, justify="right" if name in ("paper", "accepted", "measured") else "left")
    for line in words.claim_lines(outcome):
        verdict = Text(f"{line.mark} {line.verdict}", COLOURS[line.verdict])
        table.add_row(*map(Text, (line.what, line.where, line.paper, line.accepted, line.measured)), verdict)
    console.print(table)
    console.print(Text(words.tally(outcome)))
    if outcome.scale == "smoke":
        console.print(Text(words.BANNER, "bold"))


@dataclass(frozen=True)
class Sheet:
    """A table as it is shown."""

    title: str
    columns: list[Column]

    @property
    def height(self) -> int:
        return len(self.columns[0].cells) if self.columns else 0


@dataclass(frozen=True)
class Shown:
    """A figure with its bytes."""

    caption: str
    address: str
    """Data URI."""
    width: int
    height: int


@dataclass(frozen=True)
class Section:
    """A part as it is shown."""

    title: str
    text: Markup
    sheets: list[Sheet]
    figures: list[Shown]
    claims: list[ClaimLine]
    took: str


def render(outcome: Outcome, figures: Path) -> str:
    loader = jinja2.PackageLoader("sapper.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    style = "\n".join(loader.get_source(environment, name)[0] for name in ("style.css", "study.css"))
    content: dict[str, Any] = {
        "style": Markup(style),  # our own files
        "outcome": outcome,
        "paper": words.reference(outcome.paper),
        "tally": words.tally(outcome),
        "banner": words.BANNER if outcome.scale == "smoke" else "",
        "took": words.duration(sum(part.seconds for part in outcome.parts)),
        "claims": words.claim_lines(outcome),
        "sections": [_section(place, part, figures) for place, part in enumerate(outcome.parts, 1)],
    }
    return environment.get_template("study.html.jinja").render(content)


def _section(place: int, part: Part, figures: Path) -> Section:
    return Section(
        title=part.title,
        text=_prose(part.text),
        sheets=[Sheet(table.title, words.table_columns(table)) for table in part.tables],
        figures=[_shown(figure, figures) for figure in part.figures],
        claims=[words.claim_line(claim, place) for claim in part.claims],
        took=words.duration(part.seconds),
    )


def _prose(text: str) -> Markup:
    """Markdown without raw HTML, pictures and headings: those are the page's."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "heading", "lheading"])
    return Markup(reader.render(text))  # escaped by the reader


def _shown(figure: Figure, folder: Path) -> Shown:
    """As a data URI, SVG too: in a document of its own it can neither run nor restyle anything of the page."""
    assert Path(figure.file).name == figure.file, f"{figure.file} is not a name in figures/"
    content = (folder / figure.file).read_bytes()
    kind, (width, height) = ("svg+xml", _svg_size(content)) if figure.file.endswith(".svg") else ("png", _size(content))
    address = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Shown(figure.caption, address, width, height)


def _svg_size(content: bytes) -> tuple[int, int]:
    found = re.search(rb'<svg[^>]*? width="([\d.]+)" height="([\d.]+)"', content)
    return (round(float(found[1])), round(float(found[2]))) if found else (600, 400)


def _size(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content)) as image:
        return image.size


def _write(path: Path, text: str) -> None:
    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    disk.write_whole(path, write)
