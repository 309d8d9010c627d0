"""From the rows of a run to its summary. A pure function of the folder; imports no torch."""

from pathlib import Path

import polars as pl

from sapper import doctor, log
from sapper.milestones import place, until
from sapper.statistics import mean_or_none, median_with_failures, unbroken, wilson

FEW = 10
"""Questions about a case, of which no more tell no curve: those of attacks that look into the model."""


def summarise(
    run: Path, model: str, data: str, goal: str, work: list[tuple[str, str, str]], budget: int | None = None
) -> log.Summary:
    """Sums up a run whose shards are all there.

    Args:
        run: The folder.
        model: The model's name.
        data: The data's name.
        goal: The goal of all cases.
        work: Attack, threat and shard folder of each job.
        budget: Most questions that were allowed about a case.
    """
    samples = log.read_samples(run)
    cases = {folder: log.read_cases(run, folder) for _, _, folder in work}
    results = [_result(samples, cases[folder], attack, threat, goal) for attack, threat, folder in work]
    threats = list(dict.fromkeys(threat for _, threat, _ in work))
    worst = [
        _worst(samples, pl.concat([cases[folder] for _, other, folder in work if other == threat]), threat)
        for threat in threats
    ]
    right = (samples["label"] == samples["clean_prediction"]).mean()
    assert isinstance(right, float)
    return log.Summary(
        model=model,
        data=data,
        clean_accuracy=right,
        results=results,
        worst_case=worst,
        certified=[],
        findings=doctor.examine(run, work),
        query_curves=[
            curve for attack, threat, folder in work if (curve := query_curve(cases[folder], attack, threat, budget))
        ],
    )


def _result(samples: pl.DataFrame, cases: pl.DataFrame, attack: str, threat: str, goal: str) -> log.Result:
    found, seconds = int(cases["found"].sum()), float(cases["seconds"].sum())
    robust, attacked = _robust(samples, cases)
    size = cases[threat.partition(":")[0]]
    return log.Result(
        attack=attack,
        threat=threat,
        goal=goal,
        cases=len(cases),
        found=found,
        success_rate=found / len(cases) if len(cases) else None,
        robust_accuracy=robust / attacked if attacked else None,
        ci95=wilson(robust, attacked),
        mean_distance_all=None if threat.endswith(":min") and found < len(cases) else mean_or_none(size),
        mean_distance_found=mean_or_none(cases["distance"]),
        median_distance=median_with_failures(cases["distance"]),
        seconds=seconds,
        cases_per_second=len(cases) / seconds if seconds else None,
        forwards=int(cases["forwards"].sum()),
        backwards=int(cases["backwards"].sum()),
    )


def query_curve(cases: pl.DataFrame, attack: str, threat: str, budget: int | None) -> log.QueryCurve | None:
    """How far an attack got with so many questions; None where it followed gradients, asked next to nothing, or asked
    something else than the model.
    """
    ran, most = cases.filter(pl.col("error").is_null()), cases["forwards"].max()
    if not isinstance(most, int) or most <= FEW or cases["backwards"].sum() or ran["question"].null_count():
        return None
    asked, minimal = until(most), threat.endswith(":min")
    reached = [_within(cases, questions, minimal=minimal) for questions in asked]
    taken = cases.select(pl.when(pl.col("found")).then(pl.col("question"))).to_series()
    return log.QueryCurve(
        attack=attack,
        threat=threat,
        budget=budget,
        questions=asked,
        success_rate=[distance.count() / len(cases) for distance in reached],
        median_distance=[median_with_failures(distance) for distance in reached] if minimal else None,
        median_questions=None if minimal else median_with_failures(taken),
        mean_questions_found=None if minimal else mean_or_none(taken),
    )


def _within(cases: pl.DataFrame, questions: int, *, minimal: bool) -> pl.Series:
    """The distance of each case's closest success so far, null where there was none."""
    if minimal:
        return cases["nearest"].list.get(place(questions), null_on_oob=True)
    soon = pl.col("found") & (pl.col("question") <= questions)
    return cases.select(pl.when(soon).then(pl.col("distance"))).to_series()


def _worst(samples: pl.DataFrame, cases: pl.DataFrame, threat: str) -> log.WorstCase:
    robust, attacked = _robust(samples, cases)
    return log.WorstCase(threat, robust / attacked if attacked else None, wilson(robust, attacked))


def _robust(samples: pl.DataFrame, cases: pl.DataFrame) -> tuple[int, int]:
    """How many samples are right and unbroken, of how many that the goal applies to."""
    attacked = samples.filter(pl.col("sample").is_in(cases["sample"].unique().implode()))
    return int(unbroken(attacked, cases).sum()), len(attacked)
