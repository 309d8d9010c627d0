import json
from pathlib import Path

import polars as pl
import pytest

from sapper import disk, log
from sapper.summary import summarise

SAMPLES = {"label": [0, 1, 2, 3], "clean_prediction": [0, 1, 2, 0]}
FINDING = log.Finding("evaluation mode", "ok", "seen", "")


def begin(run: Path, samples: dict[str, list[int]]) -> Path:
    count = len(samples["label"])
    table = pl.DataFrame({"sample": range(count), **samples, "clean_confidence": [0.9] * count}, schema=log.SAMPLE)
    disk.write_table(run / "samples.parquet", table)
    disk.write_json(run / "preflight.json", [FINDING])
    return run


def shard(run: Path, folder: str, number: int, **columns: list) -> None:
    count = len(columns["sample"])
    given = {"forwards": [10] * count, "backwards": [5] * count, "seconds": [0.5] * count} | columns
    table = pl.DataFrame({name: given.get(name, [None] * count) for name in log.CASE}, schema=log.CASE)
    disk.write_table(run / "shards" / folder / f"{number:05}.parquet", table)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two attacks on four samples, the last of which is wrong when clean; by one of them a sample could not be run."""
    run = begin(tmp_path, SAMPLES)
    shard(
        run, "a", 0, sample=[0, 1], label=[0, 1], prediction=[5, 1], found=[True, False], distance=[0.05, None],
        linf=[0.05, 0.1],
    )  # fmt: skip
    shard(
        run, "a", 1, sample=[2, 3], label=[2, 3], prediction=[None, 0], found=[None, True], distance=[None, 0.0],
        linf=[None, 0.0], error=["it broke.", None], seconds=[None, 0.5], forwards=[None, 10], backwards=[None, 5],
    )  # fmt: skip
    shard(
        run, "b", 0, sample=[0, 1, 2, 3], label=[0, 1, 2, 3], prediction=[0, 7, 2, 0],
        found=[False, True, False, True], distance=[None, 0.1, None, 0.0], linf=[0.1, 0.1, 0.1, 0.0],
    )  # fmt: skip
    return run


WORK = [("one", "linf:0.1", "a"), ("two", "linf:0.1", "b")]


def test_every_number_of_a_small_run(run: Path) -> None:
    summary = summarise(run, "net", "things", "misclassification", WORK)
    assert summary.clean_accuracy == 0.75
    one, two = summary.results
    assert (one.attack, one.threat, one.goal) == ("one", "linf:0.1", "misclassification")
    assert (one.cases, one.found, one.success_rate, one.robust_accuracy) == (4, 2, 0.5, 0.25)
    assert one.ci95 == pytest.approx((0.0456, 0.6994), abs=1e-4)  # Wilson's, of 1 in 4
    assert one.mean_distance_all == pytest.approx(0.05)
    assert one.mean_distance_found == pytest.approx(0.025)
    assert (one.seconds, one.cases_per_second) == (1.5, pytest.approx(4 / 1.5))
    assert (one.forwards, one.backwards) == (30, 15)
    assert (two.found, two.robust_accuracy) == (2, 0.5)


def test_worst_case_takes_for_each_sample_the_attack_that_breaks_it(run: Path) -> None:
    (worst,) = summarise(run, "net", "things", "misclassification", WORK).worst_case
    assert (worst.threat, worst.robust_accuracy) == ("linf:0.1", 0)
    assert worst.ci95 == pytest.approx((0, 0.4899), abs=1e-4)


def test_worst_case_is_kept_apart_for_each_threat(run: Path) -> None:
    work = [("one", "linf:0.1", "a"), ("two", "linf:0.2", "b")]
    worst = summarise(run, "net", "things", "misclassification", work).worst_case
    assert [(w.threat, w.robust_accuracy) for w in worst] == [("linf:0.1", 0.25), ("linf:0.2", 0.5)]


def test_what_could_not_be_run_is_a_finding_of_its_own(run: Path) -> None:
    findings = summarise(run, "net", "things", "misclassification", WORK).findings
    assert findings[0] == FINDING
    assert (findings[1].verdict, findings[1].evidence) == ("warning", "1 of 4 cases of one under linf:0.1: it broke")
    assert len(findings) == 2


@pytest.mark.parametrize(
    ("distances", "median"),
    [
        ([0.01, 0.02, 0.04, None], 0.03),  # more than half
        ([0.01, 0.02, None, None], None),  # half: the median lies between a distance and infinity
        ([0.02, None, 0.01], 0.02),
        ([None, None, 0.01], None),
    ],
)
def test_median_counts_failures_as_infinitely_far(tmp_path: Path, distances: list, median: float | None) -> None:
    count = len(distances)
    run = begin(tmp_path, {"label": [0] * count, "clean_prediction": [0] * count})
    found = [d is not None for d in distances]
    size = [d or 0.1 for d in distances]
    shard(run, "a", 0, sample=list(range(count)), label=[0] * count, found=found, distance=distances, l2=size)
    (result,) = summarise(run, "m", "d", "misclassification", [("a", "l2:1", "a")]).results
    assert result.median_distance == (None if median is None else pytest.approx(median))
    assert result.mean_distance_all == pytest.approx(sum(size) / count)


def test_a_search_for_the_smallest_distance_that_failed_has_no_mean_over_all(tmp_path: Path) -> None:
    """Where it gave up may be the sample itself: an unattackable model would be at distance 0."""
    run = begin(tmp_path, {"label": [0, 0], "clean_prediction": [0, 0]})
    shard(run, "a", 0, sample=[0, 1], label=[0] * 2, found=[False] * 2, distance=[None] * 2, l2=[0.0, 0.0])
    shard(run, "b", 0, sample=[0, 1], label=[0] * 2, found=[True, False], distance=[0.2, None], l2=[0.2, 0.0])
    shard(run, "c", 0, sample=[0, 1], label=[0] * 2, found=[True, True], distance=[0.2, 0.4], l2=[0.2, 0.4])
    results = summarise(run, "m", "d", "misclassification", [(name, "l2:min", name) for name in "abc"]).results
    assert [result.mean_distance_all for result in results] == [None, None, pytest.approx(0.3)]
    assert [result.median_distance for result in results] == [None, None, pytest.approx(0.3)]


def test_targeted_success_counts_pairs_and_robustness_samples(tmp_path: Path) -> None:
    run = begin(tmp_path, {"label": [0, 0, 0], "clean_prediction": [0, 0, 0]})
    shard(
        run, "a", 0, sample=[0, 0, 1, 1, 2, 2], label=[0] * 6, target=[1, 2] * 3,
        prediction=[1, 0, 0, 0, 1, 1], found=[True, False, False, False, True, False],
        distance=[2.0, None, None, None, 4.0, None], l0=[2.0, 9, 9, 9, 4, 9],
    )  # fmt: skip
    (result,) = summarise(run, "m", "d", "targeted:every", [("a", "l0:9", "a")]).results
    assert (result.cases, result.found, result.success_rate) == (6, 2, 2 / 6)
    assert result.robust_accuracy == 1 / 3  # sample 1 alone was kept from every target
    assert (result.mean_distance_all, result.mean_distance_found, result.median_distance) == (7, 3, None)


def test_a_sample_that_lands_in_the_wrong_target_is_not_robust(tmp_path: Path) -> None:
    run = begin(tmp_path, {"label": [0], "clean_prediction": [0]})
    shard(run, "a", 0, sample=[0], label=[0], target=[1], prediction=[2], found=[False], linf=[0.1])
    (result,) = summarise(run, "m", "d", "targeted:1", [("a", "linf:0.1", "a")]).results
    assert (result.success_rate, result.robust_accuracy) == (0, 0)


def test_samples_that_the_goal_passes_over_do_not_count(tmp_path: Path) -> None:
    run = begin(tmp_path, {"label": [2, 3, 2], "clean_prediction": [2, 3, 2]})
    shard(run, "a", 0, sample=[0, 2], label=[2, 2], target=[8, 8], prediction=[8, 2], found=[True, False])
    (result,) = summarise(run, "m", "d", "source-target:2->8", [("a", "linf:0.1", "a")]).results
    assert (result.cases, result.robust_accuracy) == (2, 0.5)


def test_nothing_that_ran_gives_null_and_never_nan(tmp_path: Path) -> None:
    run = begin(tmp_path, {"label": [0, 1], "clean_prediction": [0, 1]})
    nothing = {"forwards": [None] * 2, "backwards": [None] * 2, "seconds": [None] * 2}
    shard(run, "a", 0, sample=[0, 1], label=[0, 1], error=["no"] * 2, **nothing)
    disk.write_json(run / "summary.json", summarise(run, "m", "d", "misclassification", [("a", "linf:0.1", "a")]))
    (result,) = json.loads((run / "summary.json").read_text())["results"]
    unknown = ("mean_distance_all", "mean_distance_found", "median_distance", "cases_per_second")
    assert [result[key] for key in unknown] == [None] * 4
    assert (result["found"], result["robust_accuracy"], result["seconds"]) == (0, 0, 0)
