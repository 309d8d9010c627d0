import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console

from sapper import disk
from sapper.citation import Paper
from sapper.claims import Claim, Figure, Outcome, Part, Table
from sapper.errors import RunError
from sapper.report import figures, study_words
from sapper.report.study_pages import print_outcome, write_study

EVIL = "<script>alert(1)</script>|\"'&*{{ 7*7 }}`"
CLAIMS = [
    Claim(
        what="success", where="Fig. 11", sure="stated", paper=97.05, within=(95.0, 100.0), measured=98.8342, unit="%"
    ),
    Claim(what="distortion", where="Fig. 12", sure="memory", paper=3.62, within=(3.0, 4.0), measured=4.0001, unit="%"),
    Claim(what="recognisable", where="Fig. 9", sure="second hand", note="only shown"),
    Claim(what="iterations", where="§V", sure="derived", paper=270000, within=(1000.0, 300000.0), measured=12345.6),
]
PAPER = Paper(title="The Limitations", authors="N. Papernot, P. McDaniel", year=2016, url="https://example.org/a_b")
SPOKEN = Table(
    title="Fig. 11",
    columns=["set", "samples", "success | all"],
    rows=[["training", 10000, 97.05], ["a|b", None, float("nan")], ["test", 5, 97.0]],
)


def outcome(scale: str = "paper", evil: str = "") -> Outcome:
    parts = [
        Part(
            title=f"First{evil}",
            text=f"Some **bold** text.\n\n- a list {evil}\n",
            claims=CLAIMS[:3],
            tables=[SPOKEN],
            seconds=3700,
        ),
        Part(
            title="Second",
            claims=[replace(CLAIMS[3], note=evil)],
            figures=[Figure(file="m.svg", caption=f"A matrix{evil}"), Figure(file="a b.png", caption="A grid")],
            seconds=1.26,
        ),
    ]
    return Outcome(
        name="toy", title=f"Toy{evil}", scale="smoke" if scale == "smoke" else "paper", command=f"sapper study toy{evil}",
        paper=PAPER.bibtex(), versions={"sapper": f"0.1{evil}"}, parts=parts,
    )  # fmt: skip


def write(out: Path, told: Outcome) -> tuple[str, str]:
    disk.write_json(out / "study.json", told)
    (out / "figures").mkdir(exist_ok=True)
    svg = figures.matrix(np.eye(2), ["a", "b"], ["a", "b"], title="", row_title="", column_title="", digits=0)
    (out / "figures" / "m.svg").write_text(svg, encoding="utf-8")
    (out / "figures" / "a b.png").write_bytes(figures.image_grid(np.zeros((1, 1, 1, 8, 8)), ["a"], ["b"]))
    page, document = write_study(out)
    assert (page.name, document.name) == ("study.html", "study.md")
    return page.read_text(encoding="utf-8"), document.read_text(encoding="utf-8")


class Strict(HTMLParser):
    """Every tag closed, in order; every address seen."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def plain(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page[page.index("<body>") :])).replace("\u202f", " ")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write(tmp_path_factory.mktemp("study"), outcome())


def test_every_claim_is_in_both(written: tuple[str, str]) -> None:
    page, document = written
    said = plain(page)
    assert "Of 4 claims 2 are met, 1 missed and 1 not comparable." in said
    assert "1 success Fig. 11 97.05 % stated 95 to 100 % 98.83 % ✓ met" in said
    assert "1 distortion Fig. 12 3.62 % from memory 3 to 4 % 4.0001 % ✗ missed" in said
    assert "1 recognisable Fig. 9 – second hand – – ○ not comparable" in said
    assert "2 iterations §V 270 000 derived 1 000 to 300 000 12 346 ✓ met" in said
    assert said.count("recognisable") == 2
    for claim in CLAIMS:
        assert document.count(f"| {claim.what} |") == 2
    assert "| 97.05\u202f% (stated) | 95 to 100\u202f% | 98.83\u202f% | ✓ met |" in document
    assert "recognisable: only shown" in document


def test_names_the_paper_and_the_time(written: tuple[str, str]) -> None:
    page, document = written
    said = plain(page)
    assert "N. Papernot, P. McDaniel (2016). The Limitations" in said
    assert "Took 1 h 2 min" in said
    assert "1.3 s" in said
    assert "](<https://example.org/a_b>)" in document
    assert "quick look" not in said + document


def test_a_quick_look_says_so(tmp_path: Path) -> None:
    page, document = write(tmp_path, outcome("smoke"))
    assert study_words.BANNER in plain(page).replace("&#39;", "'")
    assert f"> **{study_words.BANNER}**" in document


def test_asks_for_nothing_from_elsewhere(written: tuple[str, str]) -> None:
    page, _ = written
    pictures = []
    for tag, attrs in Strict(page).seen:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        if tag == "img":
            pictures.append(attrs)
            assert (attrs["src"] or "").startswith("data:image/")
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page
    svg, png = (base64.b64decode((attrs["src"] or "").partition(",")[2]) for attrs in pictures)
    assert svg.startswith(b"<svg")
    assert png.startswith(b"\x89PNG")
    assert [attrs["alt"] for attrs in pictures] == ["A matrix", "A grid"]


def test_nothing_is_a_dash(written: tuple[str, str]) -> None:
    page, document = written
    assert "training 10 000 97.05 a|b – – test 5 97.00" in plain(page)
    assert "| a\\|b | – | – |" in document
    assert not re.search(r"\b(nan|None|null)\b", plain(page) + document)


def test_markdown_tables_are_even(written: tuple[str, str]) -> None:
    _, document = written
    tables = re.findall(r"(?:^\|.*\n)+", document, re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
    assert "| --- | ---: | ---: |" in document
    assert "![A matrix](figures/m.svg)" in document
    assert "(figures/a%20b.png)" in document


def test_everything_hostile_is_escaped(tmp_path: Path) -> None:
    page, document = write(tmp_path, outcome(evil=EVIL))
    assert "script" not in {tag for tag, _ in Strict(page).seen}
    assert "{{ 7*7 }}" in page
    outside = re.sub(r"```.*?```", "", document, flags=re.DOTALL).replace(f"- a list {EVIL}", "")
    assert not re.search(r"(?<!\\)<script", outside)


def test_prose_takes_no_pictures_and_no_script(tmp_path: Path) -> None:
    told = outcome()
    text = "# no\n\n![x](https://example.org/x.png) [y](javascript:alert(1)) <img src=x>"
    page, _ = write(tmp_path, replace(told, parts=[replace(told.parts[0], text=text)]))
    seen = Strict(page).seen
    assert "img" not in {tag for tag, _ in seen}
    assert sum(tag == "h1" for tag, _ in seen) == 1
    assert not any((attrs.get("href") or "").startswith("javascript") for _, attrs in seen)


def test_a_study_without_claims_or_parts(tmp_path: Path) -> None:
    page, document = write(tmp_path, replace(outcome(), parts=[], paper="unreadable"))
    assert "It makes no claims." in plain(page)
    assert "It makes no claims." in document
    assert "unreadable" in document


def test_unfinished_and_broken_studies_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not finished"):
        write_study(tmp_path)
    write(tmp_path, outcome())
    (tmp_path / "figures" / "m.svg").unlink()
    with pytest.raises(RunError, match="not whole"):
        write_study(tmp_path)
    (tmp_path / "study.json").write_text('{"name": 3}')
    with pytest.raises(RunError, match="not an outcome"):
        write_study(tmp_path)


def test_console_table_reads_no_markup() -> None:
    console = Console(file=io.StringIO(), width=160)
    told = outcome("smoke")
    print_outcome(replace(told, title="[bold]x[/nonsense]"), console)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "[bold]x[/nonsense]" in said
    assert all(claim.what in said for claim in CLAIMS)
    assert "✗ missed" in said
    assert study_words.BANNER in said


def test_imports_no_torch_and_gives_the_same_bytes(tmp_path: Path) -> None:
    before = write(tmp_path, outcome())
    code = (
        "import sys; from pathlib import Path; from sapper.report.study_pages import write_study\n"
        f"write_study(Path({str(tmp_path)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    assert before == tuple((tmp_path / name).read_text(encoding="utf-8") for name in ("study.html", "study.md"))
