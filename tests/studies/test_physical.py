"""The study of photos at its smoke scale."""

import os
from pathlib import Path

import pytest

from labs import lab
from sapper.errors import DataError
from sapper.studies.physical import attack_of
from sapper.study_run import run_study


@pytest.mark.skipif(
    not (Path(os.environ.get("SAPPER_DATA", "")) / "imagenet").is_dir(),
    reason="set SAPPER_DATA to a folder with imagenet/",
)
def test_the_smoke_study_is_whole(tmp_path: Path) -> None:
    outcome = run_study("physical", lab(tmp_path, "imagenet"), "sapper study physical")
    table = outcome.parts[0].tables[0]
    clean = table.rows[0]
    assert clean[:2] == ["clean", 0]
    assert all(0 <= top_1 <= top_5 <= 100 for _, _, top_1, top_5 in table.rows)
    weakest = [row for row in table.rows if row[:2] == ["bim", 16]]
    assert weakest[0][2] < clean[2]
    assert all(
        (tmp_path / "figures" / figure.file).stat().st_size > 500 for part in outcome.parts for figure in part.figures
    )


def test_without_its_photos_it_says_where_to_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAPPER_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"photos/NNN_wnid_name.jpg"):
        run_study("physical", lab(tmp_path / "out", "imagenet"), "sapper study physical")


@pytest.mark.parametrize(("level", "steps"), [(2, 2), (4, 5), (8, 10), (12, 15), (16, 20)])
def test_bim_takes_the_papers_number_of_steps(level: int, steps: int) -> None:
    assert attack_of("bim", level).startswith(f"bim:steps={steps},")
