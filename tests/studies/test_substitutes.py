"""The study of substitutes at its smoke scale, and what it alone computes."""

from pathlib import Path

import torch

from labs import lab, needs_mnist
from sapper.claims import Outcome
from sapper.lab import answers
from sapper.learners import Neighbours
from sapper.studies._learners_common import KINDS
from sapper.studies._substitutes_common import METHODS, NETWORK, PUBLISHED, STATED, VANILLA, Nearest, curve, plan
from sapper.study_run import run_study


@needs_mnist
def test_the_smoke_study_is_whole(tmp_path: Path) -> None:
    here = lab(tmp_path)
    outcome: Outcome = run_study("substitutes", here, "sapper study substitutes")
    assert len(outcome.parts) == 7
    counted = outcome.parts[0].tables[0]
    assert [row[2] for row in counted.rows] == [20, 40, 80]
    assert [row[4] for row in counted.rows] == [20, 40, 55]
    for part in (outcome.parts[1], outcome.parts[4]):
        assert len(part.tables[0].rows) == 2 * len(METHODS)
        assert len(part.figures) == len(METHODS)
        stated = [claim for claim in part.claims if claim.what.endswith("label match")]
        assert {claim.verdict for claim in stated if " of the LR," not in claim.what} == {"not comparable"}
    assert all(
        (tmp_path / "figures" / figure.file).stat().st_size > 500 for part in outcome.parts for figure in part.figures
    )
    assert not list((tmp_path / "thefts").glob("*/*"))
    _what_is_kept_is_not_stolen_again(tmp_path)


def _what_is_kept_is_not_stolen_again(out: Path) -> None:
    here = lab(out)
    before = {path: path.stat().st_mtime_ns for path in (out / "curves").iterdir()}
    points = curve(here, "LR", plan(here, *NETWORK, VANILLA))
    assert len(points) == 3
    assert all(0 <= point.match <= 1 for point in points)
    assert before == {path: path.stat().st_mtime_ns for path in (out / "curves").iterdir()}


def test_every_published_cell_has_an_oracle() -> None:
    assert all(len(row) == len(KINDS) for row in PUBLISHED.values())
    assert set(PUBLISHED) == set(STATED)
    assert all(kind in KINDS for kinds in STATED.values() for kind in kinds)


def test_the_nearest_point_answers() -> None:
    generator = torch.Generator().manual_seed(0)
    points, x = (torch.rand(rows, 16, generator=generator, dtype=torch.float64) for rows in (50, 30))
    labels = torch.arange(50) % 4
    said = answers(Nearest(Neighbours(points, labels)), x.float().reshape(30, 1, 4, 4))
    assert said.equal(labels[torch.cdist(x, points).argmin(1)])
