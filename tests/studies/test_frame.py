"""What a study promises whatever paper it is of."""

from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pytest
from rich.console import Console

from audits import ask
from sapper.citation import Paper
from sapper.claims import Claim, Outcome, Part
from sapper.errors import DataError
from sapper.lab import Lab
from sapper.report import study_words
from sapper.study import Study
from sapper.study_run import run_study

PAPER = Paper(title="Toys", authors="T. Oy", year=2000, url="https://toy.org")


class Toy(
    Study, paper=PAPER, title="Toy", reproduces="Fig. 1", takes={"smoke": "no time", "paper": "a day"}, data="digits",
    shape=(1, 8, 8),
):  # fmt: skip
    """Two parts, one of them with a picture."""

    made: ClassVar[list[str]] = []

    def parts(self):
        return ("first", self.first), ("second", self.second)

    def first(self, lab: Lab) -> Part:
        self.made.append("first")
        return Part(title="First", figures=[lab.figure("one.svg", "<svg/>", "One")])

    def second(self, lab: Lab) -> Part:
        self.made.append("second")
        return Part(
            title="Second", claims=[Claim(what="", where="", sure="stated", measured=float("nan"), within=(0, 1))]
        )


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sapper.study_run.studies", lambda: {"toy": Toy})
    monkeypatch.setattr(Toy, "made", [])


def run(out: Path, data: str = "digits") -> Outcome:
    return run_study("toy", Lab(out=out, scale="smoke", data=data, console=Console(quiet=True)), "sapper study toy")


@pytest.mark.parametrize("harm", ["lost figure", "damaged part"])
def test_what_is_lost_or_damaged_is_made_again_and_nothing_else(harm: str, tmp_path: Path) -> None:
    run(tmp_path)
    if harm == "lost figure":
        (tmp_path / "figures/one.svg").unlink()
    else:
        (tmp_path / "parts/01-first.json").write_text("{half")
    run(tmp_path)
    assert Toy.made == ["first", "second", "first"]
    assert (tmp_path / "figures/one.svg").exists()


def test_data_of_another_shape_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    np_file = tmp_path / "flat.npz"

    np.savez(np_file, x=np.zeros((4, 5), np.float32), y=np.zeros(4, np.int64))
    with pytest.raises(DataError, match="this study is of samples of shape"):
        run(tmp_path / "out", str(np_file))
    assert not Toy.made
    assert not (tmp_path / "out").exists()


def test_parts_of_several_commits_are_told_apart(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    assert "commit" in study_words.commits(outcome)
    first = msgspec.structs.replace(outcome.parts[0], commit="a" * 40)
    mixed = msgspec.structs.replace(outcome, parts=[first, *outcome.parts[1:]])
    assert "several commits" in study_words.commits(mixed)


def test_a_measurement_that_is_no_number_is_not_comparable(tmp_path: Path) -> None:
    assert run(tmp_path).parts[1].claims[0].verdict == "not comparable"


def test_the_command_says_the_expected_time_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sapper.commands.find", lambda name: Toy)
    answer = ask("study", "toy", "--scale", "paper", "--out", tmp_path / "out")
    assert answer.code == 0
    assert answer.err.splitlines()[0] == "Toy: a day"
    assert "Toy" in answer.out
