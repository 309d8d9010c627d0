"""A small, consistent run folder made of nothing: for tests of reports and comparisons, and for looking at them."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl

from sapper import disk, log, statistics
from sapper.summary import query_curve

BIBTEX = "@inproceedings{papernot2016jsma,\n  title={The Limitations of Deep Learning in Adversarial Settings}\n}"
CITATION = {
    "name": "jsma",
    "title": "The Limitations of Deep Learning in Adversarial Settings",
    "authors": "Papernot, McDaniel, Jha, Fredrikson, Celik, Swami",
    "year": 2016,
    "url": "https://arxiv.org/abs/1511.07528",
    "bibtex": BIBTEX,
}
FINDINGS = [
    log.Finding("evaluation mode", "ok", "two forward passes agree to 0.0", ""),
    log.Finding("outputs", "warning", "rows sum to 1: these look like probabilities", "Return logits instead."),
    log.Finding("clean accuracy", "note", "90.0 %, the model file says 96.1 %", "Check the preprocessing."),
]
NORMS = {"l0": 0.0, "l1": 1.0, "l2": 2.0, "linf": np.inf}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One attack under one threat, and how strong the model is against it."""

    attack: str
    threat: str
    goal: str = "misclassification"
    strength: float = 0.8
    """Share of cases found."""
    errors: int = 0
    gradients: bool = True
    """Whether it follows them; else there is a query curve."""


PLANS = (
    Plan(attack="fgsm", threat="linf:0.1", strength=0.5),
    Plan(attack="pgd", threat="linf:0.1", strength=0.85, errors=1),
    Plan(attack="jsma", threat="l0:14.5%", goal="targeted:every", strength=0.9),
)


def write_fake_run(
    run: Path,
    *,
    shape: tuple[int, ...] = (1, 8, 8),
    samples: int = 40,
    classes: int = 10,
    names: list[str] | None = None,
    plans: tuple[Plan, ...] = PLANS,
    model: str = "lenet",
    data: str = "digits",
    seed: int = 0,
    vulnerability: bool = False,
) -> Path:
    random = np.random.default_rng(12345)  # the data are the same for every seed
    x = _blobs(random, samples, shape)
    table = _samples(random, samples, classes)
    disk.write_toml(run / "spec.toml", _spec(plans, model, data, samples, seed))
    disk.write_json(run / "environment.json", _environment(names, model, data))
    disk.write_table(run / "samples.parquet", table)
    disk.write_tensors(run / "samples.safetensors", {"x": x})
    random = np.random.default_rng(seed)
    results, everything, curves = [], {}, []
    for plan in plans:
        cases, x_adv = _attacked(random, plan, table, x, classes)
        _write_shards(run, plan, cases, x_adv)
        results.append(_result(plan, table, cases))
        curves.append(query_curve(cases, plan.attack, plan.threat, 50))
        everything.setdefault(plan.threat, []).append(cases)
        if vulnerability and plan.goal.startswith("targeted"):
            disk.write_table(run / "vulnerability.parquet", _vulnerability(cases))
    worst = [_worst(threat, table, pl.concat(cases)) for threat, cases in everything.items()]
    clean = float((table["label"] == table["clean_prediction"]).mean())  # pyright: ignore
    disk.write_json(
        run / "summary.json", log.Summary(model, data, clean, results, worst, [], FINDINGS, [*filter(None, curves)])
    )
    return run


def _spec(plans: tuple[Plan, ...], model: str, data: str, samples: int, seed: int) -> dict[str, object]:
    attacks, threats = sorted({p.attack for p in plans}), sorted({p.threat for p in plans})
    asked = {
        "model": model,
        "data": data,
        "split": "test",
        "bounds": [0.0, 1.0],
        "attacks": attacks,
        "threats": threats,
    }
    return asked | {"limit": samples, "seed": seed}


def _environment(names: list[str] | None, model: str, data: str) -> dict[str, object]:
    return {
        "classes": names,
        "command": f"sapper audit {model} --data {data} --limit 40 --seed 0",
        "versions": {"sapper": "0.1.0", "torch": "2.8.0", "python": "3.11.9"},
        "device": "cpu",
        "bounds": [0.0, 1.0],
        "citations": [CITATION],
    }


def _blobs(random: np.random.Generator, n: int, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return random.random((n, *shape)).astype(np.float32)
    channels, height, width = (1, *shape) if len(shape) == 2 else shape
    rows, columns = np.mgrid[0:height, 0:width]
    centre = random.uniform(0.25, 0.75, (n, channels, 2, 1, 1)) * np.array([height, width]).reshape(2, 1, 1)
    away = (rows - centre[:, :, 0]) ** 2 + (columns - centre[:, :, 1]) ** 2
    return np.exp(-away / (0.06 * height * width)).astype(np.float32).reshape(n, *shape)


def _samples(random: np.random.Generator, n: int, classes: int) -> pl.DataFrame:
    label = np.arange(n) % classes
    prediction = np.where(np.arange(n) % 10 == 7, (label + 1) % classes, label)  # one in ten is wrong when clean
    values = {"sample": np.arange(n), "label": label, "clean_prediction": prediction}
    return pl.DataFrame(values | {"clean_confidence": random.uniform(0.6, 1.0, n)}, schema=log.SAMPLE)


def _attacked(
    random: np.random.Generator, plan: Plan, samples: pl.DataFrame, x: np.ndarray, classes: int
) -> tuple[pl.DataFrame, np.ndarray]:
    label, clean = samples["label"].to_numpy(), samples["clean_prediction"].to_numpy()
    targeted = plan.goal.startswith("targeted")
    choice = plan.goal.partition(":")[2]
    wanted = range(classes) if choice == "every" else (int(choice or -1),)
    pairs = [(s, t) for s in range(len(x)) for t in wanted if t != label[s]]
    sample, target = (np.array(column) for column in zip(*pairs, strict=True))
    x_adv = _changed(random, plan.threat, x[sample])
    found = random.random(len(sample)) < plan.strength
    other = np.where(targeted, target, (label[sample] + random.integers(1, classes, len(sample))) % classes)
    failed = np.arange(len(sample)) < plan.errors
    change = (x_adv - x[sample]).reshape(len(sample), -1)
    size = {name: np.linalg.norm(change, p, axis=1).astype(np.float64) for name, p in NORMS.items()}
    columns = {
        "sample": sample,
        "label": label[sample],
        "target": [int(t) if targeted else None for t in target],
        "clean_prediction": clean[sample],
        "prediction": _null(failed, np.where(found, other, label[sample])),
        "found": _null(failed, found),
        "distance": _null(failed | ~found, size[plan.threat.partition(":")[0]]),
        **{name: _null(failed, values) for name, values in size.items()},
        "steps": _steps(plan, random.integers(1, 40, len(sample)), size["l0"], found),
        "question": _null(failed, (asked := random.integers(2, 41, len(sample)))),
        "nearest": [None] * len(sample),
        "forwards": asked,
        "backwards": random.integers(1, 40, len(sample)) * plan.gradients,
        "zero_gradients": [0] * len(sample),
        "bad_gradients": [0] * len(sample),
        "first_margin": [2.0] * len(sample),
        "best_margin": [1.0] * len(sample),
        "fools_substitute": [None] * len(sample),
        "survives_8_bits": [None] * len(sample),
        "clean_confidence": samples["clean_confidence"].to_numpy()[sample],
        "confidence": _null(failed, random.uniform(0.4, 1.0, len(sample))),
        "seconds": random.uniform(0.001, 0.02, len(sample)),
        "error": ["RuntimeError: the model returned <nan> & gave up" if bad else None for bad in failed],
    }
    return pl.DataFrame(columns, schema=log.CASE), x_adv


def _steps(plan: Plan, steps: np.ndarray, l0: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Of jsma as many as its changes take, two features each."""
    if not plan.attack.startswith("jsma"):
        return steps
    taken = np.ceil(l0 / 2).astype(int)
    return np.where(found, taken, taken.max())


def _vulnerability(cases: pl.DataFrame) -> pl.DataFrame:
    single, pairs = np.random.default_rng(7).uniform(0.4, 0.7, (2, len(cases)))
    table = cases.select("sample", "label", "target").with_columns(single=single, pairs=pairs)
    return table.cast(log.VULNERABILITY)  # pyright: ignore


def _changed(random: np.random.Generator, threat: str, x: np.ndarray) -> np.ndarray:
    if threat.startswith("l0"):
        features = int(np.prod(x.shape[1:]))
        budget = float(threat.partition(":")[2].removesuffix("%")) / 100
        most = max(int(budget * features), 1)
        count = random.integers(1, most + 1, (len(x), 1))
        chosen = random.random((len(x), features)).argsort(1).argsort(1) < count
        return np.where(chosen.reshape(x.shape), np.float32(1), x)
    amount = threat.partition(":")[2]
    eps = 0.5 if amount == "min" else float(Fraction(amount))
    size = random.uniform(0.3, 1.0, (len(x), *[1] * (x.ndim - 1))) * eps
    return np.clip(x + random.choice([-1, 1], x.shape) * size, 0, 1).astype(np.float32)


def _null(where: np.ndarray, values: np.ndarray) -> list[object]:
    return [None if hide else value for hide, value in zip(where, values.tolist(), strict=True)]


def _write_shards(run: Path, plan: Plan, cases: pl.DataFrame, x_adv: np.ndarray) -> None:
    folder = run / "shards" / log.case_folder(plan.attack, plan.threat)
    for shard, start in enumerate(range(0, len(cases), 100)):
        disk.write_tensors(folder / f"{shard:05}.safetensors", {"x_adv": x_adv[start : start + 100]})
        disk.write_table(folder / f"{shard:05}.parquet", cases[start : start + 100])


def _result(plan: Plan, samples: pl.DataFrame, cases: pl.DataFrame) -> log.Result:
    robust = int(statistics.unbroken(samples, cases).sum())
    ran, found = int(cases["error"].is_null().sum()), int(cases["found"].sum())
    return log.Result(
        attack=plan.attack,
        threat=plan.threat,
        goal=plan.goal,
        cases=len(cases),
        found=found,
        success_rate=found / ran if ran else None,
        robust_accuracy=robust / len(samples),
        ci95=statistics.wilson(robust, len(samples)),
        mean_distance_all=statistics.mean_or_none(cases[plan.threat.partition(":")[0]]),
        mean_distance_found=statistics.mean_or_none(cases["distance"]),
        median_distance=statistics.median_with_failures(cases["distance"]),
        seconds=float(cases["seconds"].sum()),
        cases_per_second=len(cases) / float(cases["seconds"].sum()),
        forwards=int(cases["forwards"].sum()),
        backwards=int(cases["backwards"].sum()),
    )


def _worst(threat: str, samples: pl.DataFrame, cases: pl.DataFrame) -> log.WorstCase:
    robust = int(statistics.unbroken(samples, cases).sum())
    return log.WorstCase(threat, robust / len(samples), statistics.wilson(robust, len(samples)))
