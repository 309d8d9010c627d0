import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from fake_run import CITATION, PLANS, Plan, write_fake_run
from sapper import disk, log
from sapper.errors import RunError
from sapper.report import facts, write_report

VOID = {"meta", "img", "br"}
EVIL = "<script>alert(1)</script>\"'&{{ 7*7 }}"


class Strict(HTMLParser):
    """Every tag closed, in order; every address seen."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [
            (tag, n, v) for n, v in attrs if v and n in ("src", "href", "xlink:href", "srcset", "action", "data")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(run: Path) -> tuple[str, Strict]:
    path = run / "report.html"
    text = (path if path.exists() else write_report(run)).read_text(encoding="utf-8")
    parser = Strict()
    parser.feed(text)
    assert parser.open == []
    return text, parser


def plain(text: str) -> str:
    body = text[text.index("<body>") :]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)).replace("\u202f", " ")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_fake_run(tmp_path_factory.mktemp("run") / "digits")
    write_report(run)
    return run


def test_says_what_the_summary_says(digits: Path) -> None:
    text, _ = page(digits)
    words = plain(text)
    assert (
        "lenet on digits is right on 90.0 % of 40 samples and stays right on 0 % when pixels may change by up to 0.1"
        in words
    )
    assert "it is not robust" in words
    for result in log.read_summary(digits).results:
        assert f"{100 * (result.success_rate or 0):.1f} %" in words
    for said in ("Wilson", "evaluation mode", "Return logits instead", "1 case could not be run", "Never found"):
        assert said in words
    assert "sapper audit lenet --data digits --limit 40 --seed 0" in words
    assert CITATION["bibtex"].splitlines()[0] in words
    assert not re.search(r"\b(nan|inf|None|null)\b", words.replace("<nan>", "").replace("&lt;nan&gt;", ""))


def test_asks_for_nothing_from_elsewhere(digits: Path) -> None:
    text, parser = page(digits)
    for tag, name, value in parser.addresses:
        allowed = value.startswith("data:image/png;base64,") if tag == "img" else tag == "a" and name == "href"
        assert allowed, (tag, name, value[:60])
    assert not parser.tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"}
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text


def test_ids_are_unique(digits: Path) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page(digits)[0])
    assert len(ids) == len(set(ids))


def test_everything_hostile_is_escaped(tmp_path: Path) -> None:
    plans = (*PLANS, Plan(attack=f"pgd:{EVIL}", threat="linf:0.1", gradients=False))
    run = write_fake_run(tmp_path / "run", names=[EVIL + str(i) for i in range(10)], model=EVIL, data=EVIL, plans=plans)
    environment = log.read_environment(run)
    environment["command"] = ["sapper", "audit", EVIL]
    environment["versions"] = {EVIL: EVIL}
    environment["citations"] = [dict.fromkeys(CITATION, EVIL) | {"url": "javascript:alert(1)"}]
    disk.write_json(run / "environment.json", environment)
    summary = log.read_summary(run)
    findings = [log.Finding(EVIL, EVIL, EVIL, EVIL)]
    disk.write_json(run / "summary.json", msgspec.structs.replace(summary, findings=findings))
    text, parser = page(run)
    assert "script" not in parser.tags
    assert "<script" not in text
    assert "{{ 7*7 }}" in text
    assert not any(value.startswith("javascript") for _, _, value in parser.addresses)


def test_what_was_never_found_is_a_dash(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", plans=(Plan(attack="pgd", threat="linf:0.1", strength=0),))
    words = plain(page(run)[0])
    assert "it withstood these attacks" in words
    assert re.search(r"pgd linf:0.1 misclassification 40 0 0 % – [\d.]+ – ", words)


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (3, 32, 32), (30,), (5, 7), (4, 6, 6)])
def test_every_shape_of_input(tmp_path: Path, shape: tuple[int, ...]) -> None:
    run = write_fake_run(
        tmp_path / "run", shape=shape, classes=3, samples=9, plans=(Plan(attack="pgd", threat="linf:0.1"),)
    )
    text, _ = page(run)
    image = len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))
    assert ("<img" in text) == image
    assert ('<table class="features">' in text) != image


def test_an_attack_that_found_nothing_did_not_find_the_smallest_changes(tmp_path: Path) -> None:
    """Of those that broke about as many, the one with the smallest changes stands for the threat; nothing is not 0."""
    plans = (Plan(attack="fgsm", threat="linf:0.1", strength=0), Plan(attack="pgd", threat="linf:0.1", strength=0.5))
    known = facts.read(write_fake_run(tmp_path / "run", plans=plans))
    nothing, something = known.trials
    few = replace(something, result=msgspec.structs.replace(something.result, success_rate=0.01))
    known = replace(known, trials=(nothing, few))
    assert [known.leads(trial) for trial in known.trials] == [False, True]


def test_many_classes_and_large_pictures(tmp_path: Path) -> None:
    plans = (Plan(attack="pgd", threat="linf:8/255"), Plan(attack="jsma", threat="l0:1%", goal="targeted:3"))
    names = [f"class {i}" for i in range(1001)]
    run = write_fake_run(tmp_path / "run", shape=(3, 300, 260), classes=1001, samples=12, plans=plans, names=names)
    text, _ = page(run)
    assert "1 001 classes are too many for a matrix" in plain(text)
    assert 'class="heat' not in text
    assert len(text) < 5_000_000


def test_minimal_distances_are_told_as_such(tmp_path: Path) -> None:
    plans = (Plan(attack="deepfool", threat="l2:min", strength=1.0),)
    words = plain(page(write_fake_run(tmp_path / "run", plans=plans))[0])
    assert "breaks in half of the cases at a change of" in words
    assert "no budget was set" in words


def test_an_unfinished_run_has_no_report(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run")
    (run / "summary.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        write_report(run)
    assert not list(run.glob("*report*"))
    with pytest.raises(RunError, match="run folder"):
        write_report(tmp_path / "nowhere")


def test_lost_files_are_one_clear_error(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run")
    (run / "samples.parquet").unlink()
    with pytest.raises(RunError, match=r"not whole.* lost or damaged"):
        write_report(run)
    run = write_fake_run(tmp_path / "other")
    next(run.glob("shards/pgd*/*.safetensors")).unlink()
    with pytest.raises(RunError, match=r"not whole.* lost or damaged"):
        write_report(run)


def test_imports_no_torch_and_gives_the_same_page(digits: Path) -> None:
    before = (digits / "report.html").read_bytes()
    code = (
        "import sys; from pathlib import Path; from sapper.report.page import write_report\n"
        f"write_report(Path({str(digits)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    assert (digits / "report.html").read_bytes() == before
