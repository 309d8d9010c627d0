"""Questions: which of them succeeded, how near they had come, and the curves that a summary tells of both."""

import math
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from audits import audit, rows
from sapper import log, milestones, noise
from sapper.attack import Attack, Case, State
from sapper.citation import Paper
from sapper.goal import Untargeted
from sapper.milestones import MILESTONES
from sapper.oracle import GradientOracle, LabelOracle, TorchOracle
from sapper.rows import counted
from sapper.scheduler import Crafted, craft, craft_cases
from sapper.summary import summarise
from sapper.threat import Threat
from test_summary import begin, shard
from toys import linear

PAPER = Paper(title="None", authors="A. None", year=2000, url="https://none")
ABOVE_HALF = linear(torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, -0.5]))
"""Class 1 above 0.5."""


@dataclass(frozen=True, kw_only=True)
class Climbs(Attack, norms={math.inf}, paper=PAPER, minimal=True):
    """Asks about the sample, then goes up by a hundredth a question."""

    steps: int = 60

    def limit(self, budget: float) -> int:
        return self.steps

    def start(self, case: Case, oracle: LabelOracle) -> State:
        return State(x_adv=case.x)

    def step(self, case: Case, oracle: LabelOracle, state: State) -> State:
        oracle.labels(state.x_adv)
        return State(x_adv=state.x_adv + 0.01)


@dataclass(frozen=True, kw_only=True)
class ComesBack(Climbs, norms={math.inf}, paper=PAPER, minimal=True):
    """Begins far above and comes down."""

    def start(self, case: Case, oracle: LabelOracle) -> State:
        return State(x_adv=torch.full_like(case.x, 0.995))

    def step(self, case: Case, oracle: LabelOracle, state: State) -> State:
        oracle.labels(state.x_adv)
        return State(x_adv=state.x_adv - 0.01)


@dataclass(frozen=True, kw_only=True)
class Sees(Climbs, norms={math.inf}, paper=PAPER, minimal=True):
    """Could ask for more than scores."""

    def step(self, case: Case, oracle: GradientOracle, state: State) -> State:  # pyright: ignore
        oracle.vjp(state.x_adv)
        return State(x_adv=state.x_adv + 0.01)


def crafted(attack: Attack, threat: str, *places: float, **options: object) -> Crafted:
    x = torch.tensor(places)[:, None]
    return craft(ABOVE_HALF, x, torch.zeros(len(x), dtype=torch.int64), attack=attack, threat=threat, **options)  # pyright: ignore


def within(nearest: Tensor, questions: int) -> list[float]:
    return nearest[:, milestones.place(questions)].tolist()


def test_milestones_are_round_and_rise() -> None:
    assert list(MILESTONES) == sorted(set(MILESTONES))
    assert {1, 2, 9, 10, 100, 200, 500, 1000, 5000, 10_000, 1_000_000} <= set(MILESTONES)
    assert [MILESTONES[milestones.place(asked)] for asked in (1, 10, 11, 1000, 1001)] == [1, 10, 12, 1000, 1200]
    assert milestones.place(10**9) == len(MILESTONES) - 1
    assert milestones.until(11) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert milestones.until(1) == [1]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_the_question_that_succeeds_is_known_to_the_question(batch_size: int) -> None:
    found = crafted(Climbs(), "linf:0.4", 0.455, 0.3001, 0.7, 0.05, batch_size=batch_size)
    # 0.455, 0.465, …, 0.505 is the sixth; 0.7 is broken as it is; 0.05 + 0.4 is not enough, and 60 steps and an end are asked
    assert found.question.tolist() == [6, 21, 1, 61]
    assert found.found.tolist() == [True, True, True, False]
    assert found.nearest.shape == (4, 0)


def test_what_is_asked_after_the_closest_success_does_not_change_its_question() -> None:
    found = crafted(Climbs(), "linf:min", 0.455)
    assert (found.question.tolist(), found.forwards.tolist()) == ([6], [61])


def test_how_near_each_had_come_is_told_at_milestones() -> None:
    near = crafted(ComesBack(), "linf:min", 0.205, 0.6, 0.0).nearest
    # The frame asks about the sample itself, at 0.6 a success, then it about 0.995, 0.985, …
    torch.testing.assert_close(within(near, 3), [0.78, 0.0, 0.985], rtol=0, atol=1e-4)
    torch.testing.assert_close(within(near, 10), [0.71, 0.0, 0.915], rtol=0, atol=1e-4)
    torch.testing.assert_close(within(near, 50), [0.31, 0.0, 0.515], rtol=0, atol=1e-4)
    torch.testing.assert_close(within(near, 1000), [0.30, 0.0, 0.505], rtol=0, atol=1e-4)
    assert (near.diff(dim=1) <= 0)[:, 2:].all()


def test_before_the_first_success_nothing_is_near() -> None:
    near = crafted(Climbs(), "linf:min", 0.455).nearest
    assert math.isnan(within(near, 5)[0])
    assert within(near, 6) == within(near, 1000) == [pytest.approx(0.05, abs=1e-6)]


def test_attacks_that_follow_gradients_keep_no_trail() -> None:
    assert crafted(Sees(), "linf:min", 0.455).nearest.shape == (1, 0)
    assert crafted(Sees(), "linf:min", 0.455).question.tolist() == [6]


def test_what_the_judge_refutes_was_never_near() -> None:
    class Moody(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ABOVE_HALF(x) * torch.tensor([1.0, -1.0])

    x = torch.tensor([[0.455]])
    result = craft_cases(
        TorchOracle(ABOVE_HALF.requires_grad_(requires_grad=False)), Climbs(), x,
        Untargeted(torch.zeros(1, dtype=torch.int64)), Threat.parse("linf:min"), noise.keys(0, torch.arange(1)),
        judge=TorchOracle(Moody().requires_grad_(requires_grad=False)),
    )  # fmt: skip
    assert not result.found.any()
    assert result.nearest.isnan().all()
    assert torch.equal(result.question, result.forwards)


def test_where_a_question_is_several_calls_all_are_counted() -> None:
    once = crafted(Climbs(), "linf:min", 0.455)
    thrice = counted(once, 3, submitted=False)
    assert (thrice.question.tolist(), thrice.forwards.tolist()) == ([18], [183])
    assert math.isnan(within(thrice.nearest, 15)[0])
    assert within(thrice.nearest, 20) == within(once.nearest, 6)
    assert torch.equal(counted(once, 1, submitted=False).nearest.nan_to_num(), once.nearest.nan_to_num())
    other = counted(crafted(Climbs(), "linf:0.4", 0.455), 3, submitted=True)
    assert (other.question.tolist(), other.forwards.tolist(), other.nearest.shape) == ([1], [1], (1, 0))


def a_run(tmp_path: Path, threat: str, **columns: list) -> log.Summary:
    count = len(columns["found"])
    run = begin(tmp_path, {"label": [0] * count, "clean_prediction": [0] * count})
    given = {"sample": list(range(count)), "label": [0] * count, "backwards": [0] * count} | columns
    shard(run, "a", 0, **given)
    return summarise(run, "net", "things", "misclassification", [("one", threat, "a")], 100)


def test_a_curve_of_successes(tmp_path: Path) -> None:
    (curve,) = a_run(
        tmp_path, "linf:0.1", found=[True, True, True, False], question=[1, 10, 11, 90], forwards=[1, 10, 12, 90],
        distance=[0.0, 0.1, 0.1, None],
    ).query_curves  # fmt: skip
    assert (curve.attack, curve.threat, curve.budget) == ("one", "linf:0.1", 100)
    assert curve.questions == [*range(1, 11), 12, 15, 20, 25, 30, 40, 50, 60, 80, 90]
    assert curve.success_rate == [0.25] * 9 + [0.5] + [0.75] * 10
    assert (curve.median_distance, curve.median_questions) == (None, 10.5)
    assert curve.mean_questions_found == pytest.approx(22 / 3)


def test_a_curve_of_distances(tmp_path: Path) -> None:
    def near(*first: tuple[int, float]) -> list[float | None]:
        return [min((far for asked, far in first if asked <= one), default=None) for one in MILESTONES]

    (curve,) = a_run(
        tmp_path, "l2:min", found=[True, True, True, None], question=[20, 8, 3, None], forwards=[20, 20, 20, None],
        backwards=[0, 0, 0, None], distance=[1.0, 2.0, 3.0, None], error=[None, None, None, "no answer"],
        nearest=[near((2, 9.0), (20, 1.0)), near((8, 2.0)), near((3, 3.0)), None],
    ).query_curves  # fmt: skip
    assert curve.questions == [*range(1, 11), 12, 15, 20]
    assert curve.success_rate == [0, 0.25, *[0.5] * 5, *[0.75] * 6]
    assert curve.median_distance == [*[None] * 7, *[6.0] * 5, 2.5]  # of four, the failure infinitely far
    assert (curve.median_questions, curve.mean_questions_found) == (None, None)


@pytest.mark.parametrize(
    "columns",
    [
        {"backwards": [3, 0]},  # gradients were followed
        {"forwards": [10, 2]},  # too few to tell anything
        {"question": [None, None]},  # made by an earlier version
        {"forwards": [None, None], "error": ["no", "no"]},
    ],
)
def test_there_is_no_curve_where_it_would_tell_nothing(tmp_path: Path, columns: dict[str, list]) -> None:
    usual = {"found": [True, False], "question": [5, 90], "forwards": [5, 90], "distance": [0.1, None]}
    assert len(a_run(tmp_path / "a", "linf:0.1", **usual).query_curves) == 1
    assert a_run(tmp_path / "b", "linf:0.1", **(usual | columns)).query_curves == []


def test_an_audit_tells_its_curves(tmp_path: Path) -> None:
    words = (
        "--limit",
        "20",
        "--attack",
        "square:steps=60",
        "--attack",
        "fgsm",
        "--attack",
        "boundary:steps=60",
        "--queries",
        "50",
    )
    audit(*words, "--threat", "linf:0.1", "--threat", "l2:min", "--out", tmp_path / "run", "--no-doctor")
    summary, table = log.read_summary(tmp_path / "run"), rows(tmp_path / "run")
    success, distance = summary.query_curves
    assert (success.attack, success.threat, success.budget) == ("square:steps=60", "linf:0.1", 50)
    assert (distance.attack, distance.threat) == ("boundary:steps=60", "l2:min")
    for curve in (success, distance):
        (result,) = [one for one in summary.results if (one.attack, one.threat) == (curve.attack, curve.threat)]
        assert curve.questions[-1] == 50
        assert curve.success_rate[-1] == result.success_rate
        assert curve.success_rate == sorted(curve.success_rate)
    assert distance.median_distance is not None
    (result,) = [one for one in summary.results if one.threat == "l2:min"]
    assert distance.median_distance[-1] == pytest.approx(result.median_distance, rel=1e-4)
    assert (table["question"] <= table["forwards"]).all()
    kept = table.filter(pl.col("nearest").is_not_null())
    assert len(kept) == 20
    assert kept["found"].all()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "How many questions it takes" in page
    assert "budget 50" in page
    assert "median distance, L2" in page
