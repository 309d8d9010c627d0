"""The one sentence that a reader takes home."""

from dataclasses import dataclass

import polars as pl

from sapper import log
from sapper.report.facts import Facts
from sapper.report.words import THIN, Budget, distance, percent, plural
from sapper.statistics import unbroken

ROBUST = 0.9
PARTLY = 0.5


@dataclass(frozen=True)
class Verdict:
    level: str
    """robust, partly, broken or open."""
    sentence: str
    scale: str
    """What the words of the verdict mean."""


def verdict(facts: Facts) -> Verdict:
    summary = facts.summary
    level, judgement = _judge(facts)
    left = [f"on {percent(w.robust_accuracy)}{_unknown(facts, w)} when {_when(facts, w)}" for w in _worth_saying(facts)]
    keeps = "keeps its confidence" if _is_confidence(facts) else "stays right"
    clauses = [f"{keeps} {', and '.join(left)}"] if left else []
    clauses += _distances(facts)
    opening = (
        f"{summary.model} on {summary.data} is right on {percent(summary.clean_accuracy)} "
        f"of {plural(len(facts.samples), 'sample')}"
    )
    body = f"{opening} and {', and '.join(clauses)}" if clauses else opening
    return Verdict(level, f"{body}: {judgement}.", _SCALE)


_SCALE = (
    f"“Not robust”: under the worst threat less than {PARTLY * 100:.0f}{THIN}% of the clean accuracy is left; "
    f"“partly robust”: less than {ROBUST * 100:.0f}{THIN}%. An attack that fails proves nothing; a certificate does."
)


def _judge(facts: Facts) -> tuple[str, str]:
    left = [w.robust_accuracy for w in _budgeted(facts) if w.robust_accuracy is not None]
    clean, unknown = facts.summary.clean_accuracy, max((_unrun(facts, w) for w in _budgeted(facts)), default=0.0)
    if not facts.trials or not len(facts.samples):
        return "open", "nothing attacked it yet"
    if clean == 0:
        return "open", "there is nothing to break"
    if not left:
        return "open", "no budget was set, so judge by the distance"
    level, judgement = _level(min(left) / clean)
    if unknown and _level((min(left) + unknown) / clean)[0] != level:
        return "open", "attacks that could not be run leave it open, see the findings"
    return level, judgement


def _level(share: float) -> tuple[str, str]:
    if share < PARTLY:
        return "broken", "it is not robust"
    if share < ROBUST:
        return "partly", "it is partly robust"
    return "robust", "it withstood these attacks"


def _unrun(facts: Facts, worst: log.WorstCase) -> float:
    """The share of samples that count as broken under a threat only because a case of theirs could not be run."""
    cases = [trial.cases for trial in facts.trials if trial.result.threat == worst.threat]
    ran = [table.filter(pl.col("error").is_null()) for table in cases]
    counted, known = (unbroken(facts.samples, pl.concat(tables)) for tables in (cases, ran))
    return float((known & ~counted).to_numpy().mean())


def _unknown(facts: Facts, worst: log.WorstCase) -> str:
    share = _unrun(facts, worst)
    return f" (on {percent(share)} an attack could not be run, which counts as broken)" if share else ""


def _is_confidence(facts: Facts) -> bool:
    return all(result.goal.startswith("confidence") for result in facts.summary.results)


def _budgeted(facts: Facts) -> list[log.WorstCase]:
    return [w for w in facts.summary.worst_case if not Budget.parse(w.threat).is_minimal]


def _worth_saying(facts: Facts) -> list[log.WorstCase]:
    """Up to two threats; of more, the worst."""
    known = [w for w in _budgeted(facts) if w.robust_accuracy is not None]
    return known if len(known) <= 2 else [min(known, key=lambda w: w.robust_accuracy or 0.0)]


def _when(facts: Facts, worst: log.WorstCase) -> str:
    clause = Budget.parse(worst.threat).when(facts.shape)
    threats = len(_budgeted(facts))
    return f"{clause}, the worst of {threats} threats" if threats > 2 else clause


def _distances(facts: Facts) -> list[str]:
    """For minimal-distance threats: the distance that half of the cases need."""
    threats = dict.fromkeys(trial.result.threat for trial in facts.trials if trial.budget.is_minimal)
    found = {threat: nearest_median(facts, threat) for threat in threats}
    return [_half(Budget.parse(t), value, facts.features) for t, value in found.items() if value is not None]


def nearest_median(facts: Facts, threat: str) -> float | None:
    """Of the attacks under this threat, the least median distance."""
    medians = [t.result.median_distance for t in facts.trials if t.result.threat == threat]
    return min((m for m in medians if m is not None), default=None)


def _half(budget: Budget, value: float, features: int) -> str:
    return f"breaks in half of the cases at a change of {distance(value, budget, features)} or less"
