"""The JSMA paper, whole: "The Limitations of Deep Learning in Adversarial Settings", table by table, figure by figure.

LeNet is trained on the first 50 000 samples of MNIST; the attacked sets are the first 10 000 of these, the 10 000 left out
for validation and the 10 000 of the test split, each sample towards its nine other classes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from scipy.stats import spearmanr

from sapper import hardness, log, noise
from sapper.adversarial_distance import adversarial_distance
from sapper.attacks.jsma import PAPER
from sapper.claims import Claim, Figure, Part, Table
from sapper.goal import Targeted
from sapper.lab import Lab
from sapper.models.model import Model
from sapper.oracle import TorchOracle, frozen
from sapper.regularity import Detection, detection, roughness
from sapper.report.figures import lines, matrix, scatter
from sapper.report.picture_grid import image_grid
from sapper.report.surfaces import saliency
from sapper.saliency import saliency_pair
from sapper.scheduler import craft
from sapper.statistics import pair_matrix
from sapper.studies._toy_and import toy_and
from sapper.study import Study

DIGITS = [str(digit) for digit in range(10)]
GAMMA = "l0:14.5%"
BUDGETS = (0.3, 1.3, 2.6, 5.1, 7.7, 10.2, 12.8, 25.5, 38.3)
"""Υ in % of Fig. 14."""


class JSMAStudy(
    Study,
    paper=PAPER,
    title="JSMA: the limitations of deep learning in adversarial settings",
    reproduces="Fig. 3-5, 7-15, 17, the published means, the detector of section VII",
    takes={"smoke": "under a minute", "paper": "about an hour and a half, most of it the 270 000 samples of Fig. 11"},
    data="mnist",
):
    """Every table and figure of the paper that does not need people."""

    def parts(self) -> Sequence[tuple[str, Callable[[Lab], Part]]]:
        return (
            ("toy-and", toy_and),
            ("saliency-maps", saliency_maps),
            ("grids", grids),
            ("empty", empty),
            ("success", success),
            ("pairs", pairs),
            ("hardness", hardness_matrix),
            ("adversarial-distance", predictability),
            ("options", options),
            ("detector", detector),
        )


def lenet(lab: Lab) -> Model:
    return lab.model("lenet", "train[:50000]" if lab.scale == "paper" else "train[:4000]")


def attacked(lab: Lab) -> dict[str, tuple[str, int]]:
    """The three sets: their part of the data, and how many."""
    if lab.scale == "paper":
        return {"training": ("train[:10000]", 10_000), "validation": ("train[50000:]", 10_000), "test": ("test", 10_000)}
    return {"training": ("train[:4000]", 10), "validation": ("train[50000:]", 10), "test": ("test", 20)}


def whole(lab: Lab, name: str) -> Path:
    """The run of Fig. 11 on one of the three sets."""
    split, limit = attacked(lab)[name]
    return lab.audit(name, lenet(lab), split, limit=limit, goal="targeted:every", threat=GAMMA, attack="jsma")


def cases_of(run: Path) -> pl.DataFrame:
    (folder,) = (path.name for path in (run / "shards").iterdir())
    return log.read_cases(run, folder)


def saliency_maps(lab: Lab) -> Part:
    """Fig. 7: what the saliency map of one sample looks like."""
    data, model = lab.samples("test", 1), lenet(lab)
    target = (data.y + 4) % 10
    with frozen(model.module):
        logits, pull = TorchOracle(model.module).vjp(data.x)
        rising, falling = Targeted(data.y, target).directions(logits)
        up, others = pull(rising).flatten(1), pull(falling).flatten(1)
    score = torch.where((up > 0) & (others < 0), -up * others, 0).reshape(28, 28).numpy()
    chosen, _ = saliency_pair(up, -others, torch.ones_like(up, dtype=torch.bool))
    title = f"Saliency of a {int(data.y)} towards {int(target)} (Eq. 8)"
    pair = [f"({int(p) // 28}, {int(p) % 28})" for p in chosen[0]]
    return Part(
        title="Fig. 7: a saliency map",
        text=f"Features whose increase raises the target and lowers all others together. Of 784, {int((score > 0).sum())} "
        f"are positive alone; the best pair is the pixels (row, column) {' and '.join(pair)}.",
        figures=[lab.figure("saliency.svg", saliency(score, title), title)],
    )


def grids(lab: Lab) -> Part:
    """Fig. 8 and 10: one sample of each class towards every class, increasing and decreasing."""
    model, data = lenet(lab).module, lab.samples("test", 1000)
    first = torch.stack([(data.y == digit).nonzero()[0, 0] for digit in range(10)])
    x, y, target = data.x[first].repeat_interleave(10, 0), data.y[first].repeat_interleave(10), torch.arange(10).repeat(10)
    figures = []
    for theta, name in ((1.0, "increasing"), (-1.0, "decreasing")):
        result = craft(model, x, y, attack=f"jsma:theta={theta:g}", threat=GAMMA, targets=target, seed=lab.seed)
        shown = torch.where(result.found[:, None, None, None], result.x_adv, torch.nan).reshape(10, 10, 1, 28, 28).numpy()
        caption = f"Fig. {8 if theta > 0 else 10}: {name} intensities; the originals are framed, failures left blank"
        png = image_grid(shown, DIGITS, DIGITS, row_title="source", column_title="target", framed=np.eye(10, dtype=bool))
        figures.append(lab.figure(f"grid-{name}.png", png, caption))
    limit = lab.size(paper=1000, smoke=10)
    run = lab.audit("decrease", lenet(lab), "test", limit=limit, goal="targeted:every", threat=GAMMA, attack="jsma:theta=-1")
    cases = cases_of(run)
    return Part(
        title="Fig. 8 and 10: every class into every class",
        text=f"The decreasing attack was run on the first {limit} test samples towards nine targets.",
        claims=[
            _percent("success when decreasing", "section IV", "second hand", 64.7, cases["found"].mean(), (59.7, 69.7)),
            _percent("mean distortion when decreasing", "section IV", "memory", 3.62, _distortion(cases), None),
        ],
        figures=figures,
    )


def empty(lab: Lab) -> Part:
    """Fig. 9: from a black image to every class."""
    target = torch.arange(10)
    x = torch.zeros(10, 1, 28, 28)
    result = craft(lenet(lab).module, x, torch.full((10,), -1), attack="jsma", threat=GAMMA, targets=target, seed=lab.seed)
    png = image_grid(result.x_adv[None].numpy(), [""], DIGITS, column_title="target", scale=3)
    reached = ", ".join(DIGITS[t] for t in result.found.nonzero()[:, 0])
    return Part(
        title="Fig. 9: from an empty input",
        text=f"The network sees these classes in what was made of a black image: {reached or 'none'}. Whether a person "
        "recognises them is for the eye: the paper says 0, 2, 3 and 5.",
        claims=[
            Claim(what="recognisable to people: 0, 2, 3, 5", where="Fig. 9", sure="stated",
                  note="a matter of looking; not measured"),
        ],
        figures=[lab.figure("empty.png", png, "Fig. 9: from an empty input to each class")],
    )  # fmt: skip


def success(lab: Lab) -> Part:
    """Fig. 11: success and distortion on three sets of 10 000 samples × 9 targets."""
    published = {"training": (97.05, 4.45, 4.03), "validation": (97.19, 4.41, 4.01), "test": (97.05, 4.45, 4.03)}
    rows, claims = [], []
    together = []
    for name, (rate, over_all, over_found) in published.items():
        cases = cases_of(whole(lab, name))
        together.append(cases)
        share, mean = cases["found"].mean(), _distortion(cases)
        everything = _distortion(cases, failed=True)
        rows.append([name, len(cases), 100 * share, rate, 100 * mean, over_found, 100 * everything, over_all,
                     float(cases["seconds"].sum())])  # fmt: skip
        claims += [
            _percent(f"success, {name} set", "Fig. 11", "stated", rate, share, (rate - 1.5, rate + 1.5)),
            _percent(f"distortion of successes, {name} set", "Fig. 11", "stated", over_found, mean, (3.6, 4.4)),
            _percent(f"distortion of all samples, {name} set", "Fig. 11", "stated", over_all, everything, None,
                     "the published column cannot be: see the text"),
        ]  # fmt: skip
    cases = pl.concat(together)
    claims.append(_percent("success, all", "abstract", "stated", 97.10, cases["found"].mean(), (95.6, 98.6)))
    claims.append(_percent("distortion of successes, all", "abstract", "stated", 4.02, _distortion(cases), (3.6, 4.4)))
    implied = (4.44 - 0.971 * 4.02) / (1 - 0.971)
    columns = ["set", "samples × targets", "success %", "paper", "distortion of successes %", "paper",
               "distortion of all %", "paper", "seconds"]  # fmt: skip
    return Part(
        title="Fig. 11: success and distortion",
        text=f"The published means over all samples contradict the attack's own cap: with 97.10 % successes at 4.02 % and "
        f"4.44 % over all, the failures would have changed {implied:.1f} % of the features, but 56 iterations of two "
        "features change at most 14.29 %. Here a failure counts with what it changed.",
        claims=claims,
        tables=[Table(title="Fig. 11", columns=columns, rows=[[_round(v) for v in row] for row in rows])],
    )


def pairs(lab: Lab) -> Part:
    """Fig. 12 and 13: success and mean distortion for each source and target."""
    cases = cases_of(whole(lab, "test"))
    rate = pair_matrix(cases["label"], cases["target"], cases["found"].cast(pl.Float64) * 100, 10).mean
    mean = pair_matrix(cases["label"], cases["target"], cases["distance"] / 7.84, 10).mean
    easy, hard = np.argsort(np.nanmean(mean, 0)), np.argsort(-np.nanmean(mean, 0))
    known = np.isfinite(rate) & np.isfinite(mean)
    rho = float(spearmanr(rate[known], mean[known]).statistic)
    return Part(
        title="Fig. 12 and 13: class pairs",
        text=f"By mean distortion the easiest targets are {_list(easy[:3])}, the hardest {_list(hard[:2])}. The paper names "
        "0 and 8 easy and 1 hard.",
        claims=[
            Claim(what="rank of target 1 by distortion (1 = hardest)", where="Fig. 13", sure="stated", paper=1,
                  within=(1, 2), measured=float(np.flatnonzero(hard == 1)[0] + 1)),
            Claim(what="worse rank of targets 0 and 8 by distortion (1 = easiest)", where="Fig. 13", sure="stated",
                  within=(1, 5), measured=float(max(np.flatnonzero(np.isin(easy, (0, 8)))) + 1)),
            Claim(what="Spearman correlation of success and distortion over pairs", where="section V.A", sure="second hand",
                  within=(-1, 0), measured=rho, note="the paper: anticorrelated"),
        ],
        figures=[
            _matrix(lab, "success.svg", rate, "Fig. 12: success rate", 0, "%"),
            _matrix(lab, "distortion.svg", mean, "Fig. 13: mean distortion of successes", 1, "%"),
        ],
    )  # fmt: skip


def hardness_run(lab: Lab) -> Path:
    limit = lab.size(paper=1000, smoke=20)
    return lab.audit("hardness", lenet(lab), "test", limit=limit, goal="targeted:every", threat="l0:38.3%", attack="jsma")


def hardness_of(lab: Lab) -> np.ndarray:
    cases = cases_of(hardness_run(lab))
    curve = hardness.truncate(cases, 784, [int(784 * budget / 200) for budget in BUDGETS])
    return hardness.hardness(curve, cases["label"].to_numpy(), cases["target"].to_numpy(), 10)


def hardness_matrix(lab: Lab) -> Part:
    """Fig. 14: mean distortion integrated over the success rate, nine budgets from one run."""
    cases = cases_of(hardness_run(lab))
    curve = hardness.truncate(cases, 784, [int(784 * budget / 200) for budget in BUDGETS])
    rows: list[list[str | float | int | None]] = [
        [budget, int(784 * budget / 200), 100 * float(s.mean()), 100 * float(d.mean())]
        for budget, s, d in zip(BUDGETS, curve.success, curve.distortion, strict=True)
    ]
    values = 100 * hardness_of(lab)
    return Part(
        title="Fig. 14: hardness",
        text="One run at the largest budget gives all nine: a case succeeds within a budget if it succeeded by that "
        "iteration. Only a picture was published.",
        tables=[Table(title="budgets", columns=["Υ %", "iterations", "success %", "mean distortion %"], rows=rows)],
        figures=[_matrix(lab, "hardness.svg", values, "Fig. 14: hardness H(s, t), in % of the features", 1, "")],
    )


def predictability(lab: Lab) -> Part:
    """Fig. 15: adversarial distance, and whether it foretells hardness."""
    run, model = hardness_run(lab), lenet(lab)
    cases, x = cases_of(run), torch.from_numpy(log.read_inputs(run))
    sample = torch.from_numpy(cases["sample"].to_numpy())
    goal = Targeted(torch.from_numpy(cases["label"].to_numpy()), torch.from_numpy(cases["target"].to_numpy()))
    with frozen(model.module):
        single, over_pairs = adversarial_distance(TorchOracle(model.module), x[sample], goal, 128)
    assert over_pairs is not None
    table = cases.with_columns(single=single.numpy(), pairs=over_pairs.numpy())
    mean = pair_matrix(table["label"], table["target"], table["pairs"], 10).mean
    hard = hardness_of(lab)
    known = np.isfinite(mean) & np.isfinite(hard)
    rho = float(spearmanr(mean[known], hard[known]).statistic)
    found = table.filter(pl.col("found"))
    per_sample = float(spearmanr(found["pairs"], found["distance"]).statistic)
    names = [f"{s}→{t}" for s, t in zip(*np.nonzero(known), strict=True)]
    chart = scatter(mean[known], hard[known], names, title=f"A foretells H: Spearman {rho:.2f}",
                    x_title="adversarial distance A(s, t), pairs", y_title="hardness H(s, t)")  # fmt: skip
    return Part(
        title="Fig. 15: adversarial distance",
        text=f"A is the share of pairs of features that are not admissible in the clean sample's saliency map; it needs no "
        f"attack. Over single features the mean A is {float(single.mean()):.3f}, over pairs {float(over_pairs.mean()):.3f}. "
        f"The robustness R(F), the smallest A over samples and targets, is {float(over_pairs.min()):.4f} over pairs and "
        f"{float(single.min()):.4f} over single features. For single samples, A and the distortion that a success needed "
        f"correlate with {per_sample:.2f} (Spearman).",
        claims=[
            Claim(what="Spearman correlation of A(s, t) and H(s, t)", where="Fig. 14 and 15", sure="derived",
                  within=(0.3, 1.0), measured=rho, note="the paper only looks, and finds them alike"),
        ],
        figures=[
            _matrix(lab, "adversarial-distance.svg", mean, "Fig. 15: adversarial distance A(s, t), over pairs", 2, ""),
            lab.figure("a-h.svg", chart, "Each class pair: adversarial distance against hardness"),
        ],
    )  # fmt: skip


def options(lab: Lab) -> Part:
    """The paper's warning about probabilities, single features against pairs, and theta (Fig. 17's axis)."""
    data, model = lab.samples("test", lab.size(paper=200, smoke=5)), lenet(lab).module
    index = torch.arange(len(data))
    draws = noise.uniform(noise.keys(lab.seed, index), index * 0, 1, torch.float64)[:, 0]
    target = (data.y + 1 + (9 * draws).long()) % 10
    rows: list[list[str | float | int | None]] = []
    variants = ["jsma", "jsma:saliency=probabilities", "jsma:features=single"]
    variants += [f"jsma:theta={theta:g}" for theta in (0.1, 0.3, 0.5, 0.7, -0.1, -0.3, -0.5, -0.7, -1.0)]
    for attack in variants:
        result = craft(model, data.x, data.y, attack=attack, threat=GAMMA, targets=target, seed=lab.seed)
        changed = result.distance[result.found]
        rows.append([attack, 100 * float(result.found.double().mean()),
                     100 * float(changed.mean()) / 784 if len(changed) else None, float(result.steps.double().mean())])  # fmt: skip
    degenerate = _degeneracy(model, data.x, data.y, target)
    return Part(
        title="Logits and probabilities, pairs and single features, theta",
        text="The derivatives of all probabilities sum to zero, so over probabilities the sum of the other classes is exactly "
        "minus the target's: the second condition says nothing and the score is the square of the first.",
        claims=[
            Claim(what="largest |Σ others + target| / |target| over probabilities", where="section IV.A", sure="derived",
                  paper=0, within=(0, 1e-3), measured=degenerate),
        ],
        tables=[Table(title=f"{len(data)} test samples, one random target each",
                      columns=["attack", "success %", "distortion of successes %", "mean iterations"],
                      rows=[[_round(v) for v in row] for row in rows])],
    )  # fmt: skip


def detector(lab: Lab) -> Part:
    """Section VII: squared differences of neighbouring pixels, and a JSMA that keeps them low."""
    limit = lab.size(paper=500, smoke=10)
    series, rows, judged = {}, [], {}
    for name, attack in (("jsma", "jsma"), ("decreasing", "jsma:theta=-1"), ("adaptive", "jsma:roughness=0")):
        run = lab.audit(f"detect-{name}", lenet(lab), "test", limit=limit, goal="targeted:random", threat=GAMMA, attack=attack)
        judged[name], share = _detect(run)
        series[name] = (judged[name].false_positives, judged[name].true_positives)
        rows.append([attack, 100 * share, 100 * judged[name].paired, judged[name].auc, 100 * judged[name].at(0.05)])
    chart = lines(series, title="Detecting by roughness", x_title="false positives", y_title="detected",
                  x_range=(0, 1), y_range=(0, 1), diagonal=True)  # fmt: skip
    return Part(
        title="The detector of section VII",
        text="The score of an image is the sum of squared differences of neighbouring pixels. The adaptive attack only "
        "changes features that do not raise it.",
        claims=[
            _percent("adversarial sample rougher than its source", "section VII", "stated", 100, judged["jsma"].paired,
                     (99, 100), "the paper: always higher"),
        ],
        tables=[Table(title="detection of successful samples",
                      columns=["attack", "success %", "rougher than the source %", "AUC", "detected % at 5 % false alarms"],
                      rows=[[_round(v) for v in row] for row in rows])],
        figures=[lab.figure("roc.svg", chart, "ROC of the roughness score")],
    )  # fmt: skip


def _detect(run: Path) -> tuple[Detection, float]:
    """The detector against one run's successes, and the run's success rate."""
    (folder,) = (path.name for path in (run / "shards").iterdir())
    cases = log.read_cases(run, folder)
    x_adv = np.concatenate([log.read_adversarial(run, folder, shard) for shard in cases["shard"].unique().sort()])
    found = cases["found"].to_numpy()
    source = cases["sample"].to_numpy()[found]
    clean = roughness(log.read_inputs(run))
    return detection(clean, roughness(x_adv[found]), source), float(found.mean())


def _degeneracy(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, target: torch.Tensor) -> float:
    with frozen(model):
        logits, pull = TorchOracle(model).vjp(x)
        p = logits.softmax(1)
        up, down = (pull(p * (c - (p * c).sum(1, keepdim=True))) for c in Targeted(y, target).directions(logits))
    size = up.flatten(1).abs().amax(1)
    return float(((up + down).flatten(1).abs().amax(1) / size.clamp_min(1e-30)).max())


def _distortion(cases: pl.DataFrame, *, failed: bool = False) -> float:
    """Mean share of the features changed, over the successes or over all."""
    mean = (cases if failed else cases.filter(pl.col("found")))["l0"].mean()
    return float("nan") if mean is None else float(mean) / 784  # pyright: ignore[reportArgumentType]


def _percent(what: str, where: str, sure: str, paper: float, share: object, within: tuple[float, float] | None,
             note: str = "") -> Claim:  # fmt: skip
    measured = round(100 * float(share), 2) if isinstance(share, float) and share == share else None
    return Claim(what=what, where=where, sure=sure, paper=paper, within=within, measured=measured, unit="%", note=note)  # pyright: ignore[reportArgumentType]


def _matrix(lab: Lab, file: str, values: np.ndarray, caption: str, digits: int, unit: str) -> Figure:
    svg = matrix(values, DIGITS, DIGITS, title=caption, row_title="source", column_title="target", digits=digits,
                 unit=unit, means=True)  # fmt: skip
    return lab.figure(file, svg, caption)


def _list(numbers: np.ndarray) -> str:
    return ", ".join(str(number) for number in numbers)


def _round(value: str | float | int | None) -> str | float | int | None:
    return round(value, 2) if isinstance(value, float) else value
