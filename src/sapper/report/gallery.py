"""Which cases to show, and what to show of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from sapper.report import pictures
from sapper.report.facts import Facts, Trial
from sapper.report.words import class_name, distance, is_image, number, percent

BYTES = 3_500_000  # of pictures in a report
MOST = 3  # cards on a shelf
TITLES = {
    "easiest": "Easiest: the smallest changes that succeed",
    "hardest": "Hardest: the largest changes that succeed",
    "never found": "Never found: the last try",
}
FEATURES = 6  # most changed ones shown of an input that is no picture


@dataclass(frozen=True)
class Side:
    """The model's answer to one input."""

    name: str
    confidence: str
    picture: str
    """Data URI; empty if the input is no picture."""


@dataclass(frozen=True)
class FeatureRow:
    name: str
    before: str
    after: str
    change: float
    """-1 to 1: as a share of the largest."""


@dataclass(frozen=True)
class Card:
    sample: int
    label: str
    target: str
    original: Side
    adversarial: Side
    change: str
    """Data URI of the map; empty if the input is no picture."""
    scale: str
    features: list[FeatureRow]
    distance: str
    found: bool


@dataclass(frozen=True)
class Shelf:
    title: str
    cards: list[Card]


@dataclass(frozen=True)
class Gallery:
    attack: str
    threat: str
    goal: str
    leads: bool
    crisp: bool
    """Pixels are to be seen, not smoothed."""
    shelves: list[Shelf]


def gallery(facts: Facts, trial: Trial) -> Gallery | None:
    """Easiest, hardest and never found cases of one trial, each sample once; None if no case can be shown."""
    shelves = []
    for name, rows in _choose(facts, trial).items():
        if rows:
            shelves.append(Shelf(TITLES[name], [_card(facts, trial, row) for row in rows]))
    result = trial.result
    crisp = max(facts.shape[-2:], default=0) < 100
    leads = facts.leads(trial)
    return Gallery(result.attack, result.threat, result.goal, leads, crisp, shelves) if shelves else None


def _choose(facts: Facts, trial: Trial) -> dict[str, list[dict[str, Any]]]:
    """Samples that are wrong when clean show nothing, so they come only if there are no others."""
    ran = trial.cases.filter(pl.col("error").is_null() & pl.col("prediction").is_not_null())
    right = ran.filter(pl.col("clean_prediction") == pl.col("label"))
    ran = ran if right.is_empty() else right
    # Distances that differ by rounding only are ties; among them the most convincing adversarial comes first.
    found = ran.filter(pl.col("found")).with_columns(rounded=pl.col("distance").round_sig_figs(3))
    near = found.sort(["rounded", "confidence", "sample"], descending=[False, True, False])
    far = found.sort(["rounded", "confidence", "sample"], descending=[True, False, False])
    never = ran.filter(~pl.col("found")).sort(["confidence", "sample"], descending=[True, False])
    chosen: dict[str, list[dict[str, Any]]] = {}
    seen: set[int] = set()
    for name, table in (("easiest", near), ("hardest", far), ("never found", never)):
        once = table.filter(~pl.col("sample").is_in(list(seen))).unique("sample", keep="first", maintain_order=True)
        chosen[name] = once.head(_room(facts)[0]).to_dicts()
        seen |= {row["sample"] for row in chosen[name]}
    return chosen


def _room(facts: Facts) -> tuple[int, int]:
    """How many cards a shelf may have, and the longest side of their pictures, for the file to stay sane."""
    if not is_image(facts.shape):
        return MOST, 0
    shelves = max(len(facts.trials), 1) * len(TITLES)
    fits = {limit: int(BYTES / shelves / pictures.cost(facts.shape, limit)) for limit in pictures.LIMITS}
    limit = next((limit for limit, cards in fits.items() if cards >= MOST), pictures.LIMITS[-1])
    return max(1, min(MOST, fits[limit])), limit


def _card(facts: Facts, trial: Trial, row: dict[str, Any]) -> Card:
    names = facts.environment.classes
    x, x_adv = facts.original(row["sample"]), trial.adversarial(row)
    change = x_adv.astype(np.float64) - x.astype(np.float64)
    scale = float(np.abs(change).max(initial=0.0))
    image = is_image(facts.shape)
    bounds = facts.environment.bounds or (float(x.min()), float(x.max()))
    limit = _room(facts)[1]
    clean = pictures.photograph(x, bounds, limit) if image else ""
    broken = pictures.photograph(x_adv, bounds, limit) if image else ""
    size = row["distance"] if row["found"] else row[trial.budget.norm]
    return Card(
        sample=row["sample"],
        label=class_name(row["label"], names),
        target=class_name(row["target"], names) if row["target"] is not None else "",
        original=Side(class_name(row["clean_prediction"], names), percent(row["clean_confidence"]), clean),
        adversarial=Side(class_name(row["prediction"], names), percent(row["confidence"]), broken),
        change=pictures.change_map(change, scale, limit) if image else "",
        scale=number(scale),
        features=[] if image else _features(x, x_adv, change, scale),
        distance=distance(size, trial.budget, facts.features),
        found=bool(row["found"]),
    )


def _features(x: np.ndarray, x_adv: np.ndarray, change: np.ndarray, scale: float) -> list[FeatureRow]:
    flat = change.ravel()
    most = np.argsort(-np.abs(flat), kind="stable")[:FEATURES]
    rows = []
    for i in most[flat[most] != 0]:
        at = np.unravel_index(i, change.shape)
        name = "feature " + ", ".join(str(k) for k in at)
        rows.append(
            FeatureRow(name, number(float(x.ravel()[i])), number(float(x_adv.ravel()[i])), float(flat[i] / scale))
        )
    return rows
