import json
import math
import os
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from audits import adversarial, ask, assert_same_run, audit, files, logits, rows, shards, tensors, trained
from sapper import catalogue, log
from sapper.attacks.fgsm import FGSM

ATTACKS = ("--attack", "fgsm", "--attack", "pgd:steps=5", "--attack", "jsma")
THREATS = ("--threat", "linf:0.1", "--threat", "l0:10%")
RESULT_KEYS = [
    "attack", "threat", "goal", "cases", "found", "success_rate", "robust_accuracy", "ci95", "mean_distance_all",
    "mean_distance_found", "median_distance", "seconds", "cases_per_second", "forwards", "backwards",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory)


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    audit(model, "--limit", "60", *ATTACKS, *THREATS, "--out", run)
    return run


def quick(model: Path | str, run: Path, *words: str) -> Path:
    audit(model, "--limit", "25", "--no-doctor", "--out", run, *words)
    return run


def test_the_folder_holds_what_the_design_says_and_nothing_else(run: Path) -> None:
    jobs = ["fgsm.l0-10pct", "fgsm.linf-0.1", "jsma.l0-10pct", "pgd-steps=5.l0-10pct", "pgd-steps=5.linf-0.1"]
    each = [f"shards/{job}/00000.{kind}" for job in jobs for kind in ("parquet", "safetensors")]
    rest = [
        "spec.toml",
        "environment.json",
        "samples.parquet",
        "samples.safetensors",
        "preflight.json",
        "doctor.json",
        "summary.json",
    ]
    assert files(run) == sorted([*each, *rest, "report.html"])


def test_spec_says_what_was_asked(run: Path, model: Path) -> None:
    spec = tomllib.loads((run / "spec.toml").read_text())
    assert (spec["model"], spec["data"], spec["limit"], spec["seed"]) == (str(model), "digits", 60, 0)
    assert (spec["attacks"], spec["threats"]) == (["fgsm", "pgd:steps=5", "jsma"], ["linf:0.1", "l0:10%"])
    assert len(spec["model_digest"]) == len(spec["data_digest"]) == 64


def test_environment_says_with_what(run: Path) -> None:
    environment = json.loads((run / "environment.json").read_text())
    assert environment["device"] == "cpu"
    assert set(environment["versions"]) >= {"python", "sapper", "torch"}
    assert environment["classes"] == list("0123456789")
    assert {"commit", "seed", "started", "threads", "batch_size"} <= set(environment)


def test_summary_has_exactly_the_keys_of_the_contract(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    parts = ["model", "data", "clean_accuracy", "results", "worst_case", "certified", "findings", "query_curves"]
    assert set(summary) == {"version", *parts}
    assert [list(result) for result in summary["results"]] == [RESULT_KEYS] * 5
    assert [list(worst) for worst in summary["worst_case"]] == [["threat", "robust_accuracy", "ci95"]] * 2
    assert {tuple(finding) for finding in summary["findings"]} == {("check", "verdict", "evidence", "remedy")}
    assert summary["certified"] == []


def test_summary_agrees_with_the_rows(run: Path) -> None:
    summary, samples = log.read_summary(run), log.read_samples(run)
    right = samples["label"] == samples["clean_prediction"]
    assert summary.clean_accuracy == right.mean()
    for result in summary.results:
        cases = log.read_cases(run, log.case_folder(result.attack, result.threat))
        assert (result.cases, result.found) == (60, cases["found"].sum())
        assert result.robust_accuracy == (right & ~cases["found"]).mean()
        assert result.forwards == cases["forwards"].sum()


def finite(value: object) -> bool:
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def test_nothing_is_infinite_or_nan(run: Path) -> None:
    for name in ("summary.json", "environment.json", "preflight.json", "doctor.json"):
        assert finite(json.loads((run / name).read_text()))
    for table in [log.read_samples(run), rows(run)]:
        assert (
            table.select(pl.col(pl.Float64).is_infinite() | pl.col(pl.Float64).is_nan()).sum().sum_horizontal()[0] == 0
        )
    assert np.isfinite(adversarial(run)).all()


def test_rows_have_the_documented_columns_and_types(run: Path) -> None:
    assert all(pl.read_parquet(path).schema == pl.Schema(log.CASE) for path in shards(run))
    assert log.read_samples(run).schema == pl.Schema(log.SAMPLE)


def test_what_was_not_found_has_no_distance_and_what_was_found_has_its_own(run: Path) -> None:
    cases = rows(run)
    assert 0 < cases["found"].sum() < len(cases)
    assert (cases["distance"].is_null() == ~cases["found"]).all()
    for path in shards(run):
        norm = path.parent.name.rpartition(".linf")[1] or path.parent.name.rpartition(".l0")[1]
        found = pl.read_parquet(path).filter("found")
        np.testing.assert_allclose(found["distance"], found[norm.strip(".")], rtol=1e-6)


def test_everything_found_is_adversarial_and_legal_by_another_computation(run: Path, model: Path) -> None:
    x = tensors(run / "samples", "x")
    for path in shards(run):
        cases, x_adv = pl.read_parquet(path), tensors(path, "x_adv").astype(np.float64)
        clean = x[cases["sample"].to_numpy()].astype(np.float64)
        found = cases["found"].to_numpy()
        np.testing.assert_array_equal(logits(model, x_adv).argmax(1), cases["prediction"].to_numpy())
        np.testing.assert_array_equal(found, cases["prediction"].to_numpy() != cases["label"].to_numpy())
        change = np.abs(x_adv - clean).reshape(len(clean), -1)
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        if "linf" in path.parent.name:
            assert change.max() <= 0.1 + 1e-6
            np.testing.assert_allclose(cases["linf"], change.max(1), atol=1e-6)
        else:
            assert (change > 0).sum(1).max() <= 6  # a tenth of 64 features
            np.testing.assert_array_equal(cases["l0"], (change > 0).sum(1))


def test_stored_samples_are_the_data(run: Path, model: Path) -> None:
    samples = log.read_samples(run)
    np.testing.assert_array_equal(
        logits(model, tensors(run / "samples", "x")).argmax(1), samples["clean_prediction"].to_numpy()
    )


def test_the_command_in_the_environment_gives_the_same_rows(run: Path, model: Path, tmp_path: Path) -> None:
    words = shlex.split(json.loads((run / "environment.json").read_text())["command"])
    assert words[:2] == ["sapper", "audit"]
    audit(*words[2:], "--out", tmp_path / "again")
    assert_same_run(run, tmp_path / "again")


def test_the_command_carries_every_option(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "own data.npz", x=np.random.default_rng(0).uniform(-1, 1, (12, 1, 6, 6)), y=np.arange(12) % 10)
    options = ["--data", str(tmp_path / "own data.npz"), "--bounds", "-1", "1", "--mean", "-0.5", "--std", "0.7",
               "--resize", "8", "8", "--split", "train", "--limit", "9", "--goal", "targeted:random", "--seed", "4",
               "--quantize", "6", "--queries", "7", "--batch-size", "5", "--no-doctor", "--attack", "jsma:theta=-1",
               "--threat", "l0:4"]  # fmt: skip
    audit(model, *options, "--out", tmp_path / "a")
    words = shlex.split(json.loads((tmp_path / "a" / "environment.json").read_text())["command"])
    audit(*words[2:], "--out", tmp_path / "b")
    assert (tmp_path / "a" / "spec.toml").read_text() == (tmp_path / "b" / "spec.toml").read_text()
    assert_same_run(tmp_path / "a", tmp_path / "b")


GOALS = ["confidence:0.5", "misclassification", "targeted:every", "targeted:random", "targeted:least-likely",
         "targeted:3", "source-target:2->8", "source-target:2->every"]  # fmt: skip


@pytest.mark.parametrize("goal", GOALS)
def test_each_goal_is_what_it_says(goal: str, model: Path, tmp_path: Path) -> None:
    run = quick(model, tmp_path / "run", "--goal", goal, "--attack", "pgd:steps=10", "--threat", "linf:0.15")
    cases, samples = rows(run), log.read_samples(run)
    target, label, found = cases["target"], cases["label"], cases["found"].to_numpy()
    scores = logits(model, adversarial(run))
    reached = scores.argmax(1) == target.fill_null(-1).to_numpy()
    every = [(s, t) for s, y in zip(samples["sample"], samples["label"], strict=True) for t in range(10) if t != y]
    match goal.replace(":", "-").split("-"):
        case ["misclassification"]:
            reached = scores.argmax(1) != label.to_numpy()
            assert target.is_null().all()
        case ["confidence", _]:
            share = np.exp(scores - scores.max(1, keepdims=True))
            share = (share / share.sum(1, keepdims=True))[np.arange(len(cases)), label.to_numpy()]
            reached = share < 0.5
            assert target.is_null().all()
        case ["targeted", "every"]:
            assert list(zip(cases["sample"], target, strict=True)) == every
        case ["targeted", "random"]:
            assert (target != label).all()
            assert target.n_unique() > 3
        case ["targeted", "least", "likely"]:
            clean = logits(model, tensors(run / "samples", "x"))
            clean[np.arange(len(cases)), label.to_numpy()] = np.inf
            np.testing.assert_array_equal(target.to_numpy(), clean.argmin(1))
        case ["targeted", "3"]:
            assert target.unique().to_list() == [3]
            assert cases["sample"].to_list() == samples.filter(pl.col("label") != 3)["sample"].to_list()
        case ["source", "target", "2", ">8"]:
            wanted = samples.filter(label=2)["sample"].to_list()
            assert (cases["sample"].to_list(), target.unique().to_list()) == (wanted, [8])
        case ["source", "target", "2", ">every"]:
            assert list(zip(cases["sample"], target, strict=True)) == [
                (s, t) for s, t in every if samples["label"][s] == 2
            ]
        case other:
            pytest.fail(f"no expectation for {other}")
    np.testing.assert_array_equal(found, reached)
    assert found.any()


@pytest.mark.parametrize("bits", [2, 8])
def test_quantised_successes_lie_on_the_grid(bits: int, model: Path, tmp_path: Path) -> None:
    words = ("--quantize", str(bits), "--attack", "pgd:steps=10", "--attack", "fgsm", "--threat", "linf:0.4")
    run = quick(model, tmp_path / "run", *words)
    levels = adversarial(run).astype(np.float64) * (2**bits - 1)
    np.testing.assert_allclose(levels, levels.round(), atol=1e-4)
    clean = tensors(run / "samples", "x")[rows(run)["sample"].to_numpy()]
    assert np.abs(adversarial(run) - clean).max() <= 0.4 + 1e-6
    np.testing.assert_array_equal(logits(model, adversarial(run)).argmax(1), rows(run)["prediction"].to_numpy())
    assert rows(run)["found"].any()


def test_whether_a_success_survives_as_an_8_bit_picture_is_told(model: Path, tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8)).astype(np.uint8)
    labels = logits(model, pictures / 255).argmax(1)
    np.savez(tmp_path / "pictures.npz", x=pictures, y=labels)
    words = ("--data", str(tmp_path / "pictures.npz"), "--split", "train", "--no-doctor", "--attack", "pgd:steps=10")
    audit(model, *words, "--threat", "linf:0.02", "--out", tmp_path / "run")  # 5.1 levels
    cases, x_adv = rows(tmp_path / "run"), adversarial(tmp_path / "run").astype(np.float64)
    found = cases["found"].to_numpy()
    assert found.any()
    assert (cases["survives_8_bits"].is_null() == ~found).all()
    clean = pictures.astype(np.float64)
    levels = np.clip(np.round(x_adv * 255), clean - 5, clean + 5)  # beyond the budget, the level before
    answers = logits(model, levels / 255).argmax(1) != labels
    told = cases["survives_8_bits"].to_numpy()[found].astype(bool)
    assert (told == answers[found]).mean() > 0.9  # where one feature is too far, all are rounded towards the sample
    run = quick(model, tmp_path / "other", "--attack", "pgd:steps=10", "--threat", "linf:0.1")
    assert rows(run)["survives_8_bits"].is_null().all()  # digits have 17 levels, which are no 8-bit levels


def test_no_case_asks_more_often_than_allowed(model: Path, tmp_path: Path) -> None:
    words = ("--attack", "pgd:steps=9,step_size=0.001", "--threat", "linf:0.01", "--queries", "4")
    forwards = rows(quick(model, tmp_path / "run", *words))["forwards"]
    assert forwards.max() == 4


def test_what_is_given_twice_runs_once(model: Path, tmp_path: Path) -> None:
    words = ("--attack", "fgsm", "--attack", "fgsm", "--threat", "linf:0.1", "--threat", "linf:1/10")
    run = quick(model, tmp_path / "run", *words)
    assert [(r.attack, r.threat) for r in log.read_summary(run).results] == [("fgsm", "linf:0.1")]


def test_attacks_that_need_a_budget_keep_out_of_a_search_for_the_smallest_change(model: Path, tmp_path: Path) -> None:
    words = ("--attack", "fgsm", "--attack", "jsma", "--threat", "l0:min", "--threat", "linf:0.1")
    run = quick(model, tmp_path / "run", *words)
    assert [(r.attack, r.threat) for r in log.read_summary(run).results] == [("jsma", "l0:min"), ("fgsm", "linf:0.1")]
    run = quick(model, tmp_path / "suite", "--threat", "l0:min")
    assert [(r.attack, r.threat) for r in log.read_summary(run).results] == [("minimal", "l0:min"), ("jsma", "l0:min")]


def test_without_attacks_and_threats_the_standard_suite_runs(model: Path, tmp_path: Path) -> None:
    audit(model, "--limit", "3", "--out", tmp_path)
    results = log.read_summary(tmp_path).results
    assert {r.threat for r in results} == {"linf:0.1", "l2:1", "l0:14.5%"}
    assert {r.attack for r in results if r.threat == "l0:14.5%"} >= {"jsma", "pgd"}


@pytest.mark.parametrize("threat", ["l2:min", "linf:min"])
def test_for_the_smallest_distance_alone_the_suite_of_such_attacks_runs(
    model: Path, tmp_path: Path, threat: str
) -> None:
    audit(model, "--limit", "3", "--threat", threat, "--out", tmp_path)
    assert [(r.attack, r.threat) for r in log.read_summary(tmp_path).results] == [("minimal", threat)]


def test_restarts_are_one_attack_of_several_stages(model: Path, tmp_path: Path) -> None:
    words = ("--attack", "3*pgd:steps=4,step_size=0.01", "--threat", "linf:0.03")
    run = quick(model, tmp_path / "run", *words)
    assert (run / "shards" / "3xpgd-steps=4,step_size=0.01.linf-0.03").is_dir()
    assert rows(run)["steps"].max() == 12


def test_a_folder_may_have_any_name(model: Path, tmp_path: Path) -> None:
    run = quick(model, tmp_path / "[bold]*?:x: {run}", "--attack", "fgsm", "--threat", "linf:0.1")
    assert len(log.read_cases(run, "fgsm.linf-0.1")) == 25


def test_without_out_the_folder_is_named_after_the_spec(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (model, "--limit", "5", "--attack", "fgsm", "--threat", "linf:0.1")
    for more in ((), (), ("--seed", "1")):  # the same one goes on, another spec is another folder
        audit(*words, *more)
    assert [path.name.rpartition("-")[0] for path in (tmp_path / "runs").iterdir()] == ["small-network-digits"] * 2


MODULE = """
from pathlib import Path
import torch
from torch import nn
class Odd(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change, self.linear = change, nn.Linear(64, 10)
        self.linear.weight.data.copy_(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)))
    def forward(self, x):
        return self.change(self.linear(x.flatten(1)), x)
class OneWay(torch.autograd.Function):
    @staticmethod
    def forward(context, z): return z + 0
    @staticmethod
    def backward(context, gradient): raise RuntimeError("no way back\\nat all")
class Mostly(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Odd(lambda z, x: z)
        self.inner.linear.bias.data.zero_()
    def forward(self, x):
        if Path("down").exists() and x.requires_grad: raise OSError("no answer")
        return self.inner(x)
def down_for_now(): return Mostly()
def training(): return nn.Sequential(nn.Dropout(), Odd(lambda z, x: z)).train()
def half(): return Odd(lambda z, x: z).bfloat16()
def detached(): return Odd(lambda z, x: z.detach())
def one_way(): return Odd(lambda z, x: OneWay.apply(z))
def breaks_off_grid(): return Odd(lambda z, x: torch.where(((x * 16) % 1 == 0).flatten(1).all(1)[:, None], z, torch.nan))
"""


@pytest.mark.parametrize("factory", ["detached", "one_way"])
def test_a_targeted_run_without_derivatives_ends_with_rows_too(
    factory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd_models.py").write_text(MODULE)
    run = quick(
        f"odd_models:{factory}", tmp_path / "run", "--goal", "targeted:3", "--attack", "jsma", "--threat", "l0:9"
    )
    assert rows(run)["error"].is_not_null().all()
    assert "vulnerability.parquet" not in files(run)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("detached", "does not depend on its input"),
        ("one_way", "no way back"),
        ("breaks_off_grid", "nan or infinity"),
    ],
)
def test_cases_that_cannot_be_run_are_rows_with_their_error(
    factory: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd_models.py").write_text(MODULE)
    answer = audit(f"odd_models:{factory}", "--limit", "25", "--attack", "fgsm", "--threat", "linf:0.1", "--out", "run")
    cases = rows(Path("run"))
    assert len(cases) == 25
    failed = cases.filter(pl.col("error").is_not_null())
    assert failed["error"].str.contains(reason).all()
    assert failed["found"].is_null().all()
    assert failed["prediction"].is_null().all()
    clean_successes = cases.filter(pl.col("error").is_null())
    assert len(failed) > 0
    assert (clean_successes["distance"] == 0).all()
    summary = log.read_summary(Path("run"))
    assert (summary.results[0].robust_accuracy, summary.worst_case[0].robust_accuracy) == (0, 0)
    assert f"{len(failed)} of 25 cases of fgsm under linf:0.1" in summary.findings[-1].evidence
    assert "could not be run" in answer.out
    assert os.listdir("run/shards") == ["fgsm.linf-0.1"]


def test_cases_that_could_not_be_run_are_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd_models.py").write_text(MODULE)
    words = ("odd_models:down_for_now", "--limit", "25", "--attack", "fgsm", "--threat", "linf:0.1", "--out", "run")
    Path("down").touch()
    audit(*words)
    assert rows(Path("run"))["error"].str.contains("OSError: no answer").all()
    assert "leave it open" in Path("run/report.html").read_text()
    Path("down").unlink()
    audit(*words)
    assert rows(Path("run"))["error"].is_null().all()


def test_a_layer_in_training_mode_is_reported_of_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd_models.py").write_text(MODULE)
    run = quick("odd_models:training", tmp_path / "run", "--attack", "fgsm", "--threat", "linf:0.1")
    findings = {finding.check: finding for finding in log.read_summary(run).findings}
    assert findings["evaluation mode"].verdict == "warning"


def test_a_model_of_bfloat16_has_rows_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd_models.py").write_text(MODULE)
    run = quick("odd_models:half", tmp_path / "run", "--attack", "fgsm", "--threat", "linf:0.1")
    assert rows(run)["error"].is_null().all()
    assert adversarial(run).dtype == np.float32


def test_files_that_were_lost_are_made_again(model: Path, tmp_path: Path) -> None:
    run = quick(model, tmp_path / "run", "--attack", "fgsm", "--threat", "linf:0.1")
    before = adversarial(run)
    for lost in ("samples.parquet", "shards/fgsm.linf-0.1/00000.safetensors"):
        (run / lost).unlink()
        quick(model, run, "--attack", "fgsm", "--threat", "linf:0.1")
    assert np.array_equal(adversarial(run), before)


@dataclass(frozen=True, kw_only=True)
class OnlyL1(FGSM, norms={1}, paper=FGSM.paper):
    """An attack that the standard suite has no threat for."""


def test_what_fits_nothing_of_the_standard_suite_says_what_to_give(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = catalogue.attacks() | {"only_l1": OnlyL1}
    monkeypatch.setattr(catalogue, "attacks", lambda: known)
    answer = ask("audit", model, "--limit", "5", "--attack", "only_l1", "--out", tmp_path / "run")
    assert (answer.code, "give --threat" in answer.err) == (2, True), answer.err
