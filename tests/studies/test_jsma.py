"""The JSMA study at its smoke scale, as a user runs it."""

from pathlib import Path

import msgspec
import pytest

from labs import lab, needs_mnist
from sapper.claims import Claim, Outcome
from sapper.errors import RunError
from sapper.study_run import find, run_study, studies


@needs_mnist
def test_the_smoke_study_is_whole_and_goes_on_where_it_was(tmp_path: Path) -> None:
    outcome = run_study("jsma", lab(tmp_path), "sapper study jsma")
    assert [part.title for part in outcome.parts][0].startswith("Fig. 3")
    assert len(outcome.parts) == len(find("jsma")().parts())
    for part in outcome.parts:
        assert part.claims or part.tables or part.figures
        for figure in part.figures:
            assert (tmp_path / "figures" / figure.file).stat().st_size > 500
    assert msgspec.json.decode((tmp_path / "study.json").read_bytes(), type=Outcome) == outcome

    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    next((tmp_path / "parts").glob("*-empty.json")).unlink()
    again = run_study("jsma", lab(tmp_path), "sapper study jsma")
    assert [msgspec.structs.replace(p, seconds=0) for p in again.parts] == [
        msgspec.structs.replace(p, seconds=0) for p in outcome.parts
    ]
    kept = [path for path, time in times.items() if path.stat().st_mtime_ns == time]
    assert len(kept) == len(times) - 1


@needs_mnist
def test_a_folder_of_another_scale_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text('study = "jsma"\nscale = "paper"\ndata = "mnist"\nseed = 0\n')
    with pytest.raises(RunError, match="another study"):
        run_study("jsma", lab(tmp_path), "sapper study jsma")


def test_every_study_says_what_it_reproduces_and_how_long_it_takes() -> None:
    for study in studies().values():
        assert study.title
        assert study.reproduces
        assert set(study.takes) == {"smoke", "paper"}


@pytest.mark.parametrize(
    ("measured", "within", "verdict"),
    [
        (96.0, (95.0, 98.0), "met"),
        (99.0, (95.0, 98.0), "missed"),
        (None, (0.0, 1.0), "not comparable"),
        (1.0, None, "not comparable"),
    ],
)
def test_a_claim_is_met_missed_or_not_comparable(
    measured: float | None, within: tuple[float, float] | None, verdict: str
) -> None:
    assert Claim(what="", where="", sure="stated", measured=measured, within=within).verdict == verdict
