"""Audits of models that are no torch networks, from end to end as a user runs them."""

import json
import math
import shutil
from pathlib import Path

import joblib
import polars as pl
import pytest
import skops.io
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

import sapper
from audits import adversarial, ask, assert_same_run, audit, files, rows, shards, trained
from sapper import catalogue, disk, doctor, log
from sapper.data.loading import load_data
from sapper.models.loading import load_model
from sapper.plan import standard

pytestmark = pytest.mark.usefixtures("as_a_user")
SQUARE = ("--attack", "square:steps=40", "--threat", "linf:0.1", "--limit", "30")
NULL_WITHOUT_SCORES = ("clean_confidence", "confidence", "first_margin", "best_margin")


def fitted(estimator):
    data = load_data("digits", split="train", limit=600)
    return estimator.fit(data.x.double().flatten(1).numpy(), data.y.numpy())


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "forest.skops"
    skops.io.dump(fitted(RandomForestClassifier(5, random_state=0)), path)
    return path


@pytest.fixture(scope="module")
def vote(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "vote.skops"
    skops.io.dump(fitted(VotingClassifier([("a", LogisticRegression()), ("b", DecisionTreeClassifier())])), path)
    return path


@pytest.fixture(scope="module")
def run(forest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    audit(forest, *SQUARE, "--out", out)
    return out


def test_what_an_audit_finds_the_forest_itself_confirms(forest: Path, run: Path) -> None:
    cases, x_adv = rows(run), adversarial(run)
    estimator = fitted(RandomForestClassifier(5, random_state=0))
    predicted = estimator.predict(x_adv.reshape(len(x_adv), -1).astype("float64"))
    assert cases["found"].sum() > 10
    assert cases["prediction"].to_list() == predicted.tolist()
    assert (cases["found"] == (cases["prediction"] != cases["label"])).all()
    stated = estimator.predict_proba(x_adv.reshape(len(x_adv), -1).astype("float64")).max(1)
    assert cases["confidence"].to_list() == pytest.approx(stated.tolist(), abs=1e-5)
    assert (cases["backwards"] == 0).all()
    assert cases["error"].is_null().all()


def test_nothing_is_said_of_gradients_that_were_never_promised(run: Path) -> None:
    findings = log.read_summary(run).findings
    assert not {"gradients", "gradients along the attacks", "attacks without gradients"} & {f.check for f in findings}
    (access,) = [finding for finding in findings if finding.check == "access"]
    assert (access.verdict, access.evidence) == ("note", "the model answers with scores only")
    for finding in findings:
        assert finding is access or "gradient" not in finding.evidence + finding.remedy
    assert {probe.name for probe in log.read_probes(run)} == {"random noise", "square", "surrogate"}
    assert log.read_environment(run)["model"]["access"] == "scores"
    assert ask("doctor", run).code == 0


def test_the_doctor_blames_the_questions_not_the_gradients(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    names = {"surrogate": 9, "square": 9, "random noise": 1}
    disk.write_json(out / "doctor.json", [log.Probe(name, "linf:0.1", name, 20, fell) for name, fell in names.items()])
    folder = log.case_folder("square:steps=40", "linf:0.1")
    told = {finding.check: finding for finding in doctor.examine(out, [("square:steps=40", "linf:0.1", folder)])}
    assert (told["more steps"].verdict, told["transferred samples"].verdict) == ("warning", "warning")
    for finding in (told["more steps"], told["transferred samples"]):
        assert "more questions" in finding.remedy
        assert "gradient" not in finding.remedy


def test_where_scores_are_level_the_doctor_names_attacks_that_need_labels_only(tmp_path: Path) -> None:
    model = tmp_path / "nearest.skops"
    skops.io.dump(fitted(make_pipeline(PCA(20, random_state=0), KNeighborsClassifier(1, algorithm="brute"))), model)
    audit(model, "--attack", "square:steps=200", "--threat", "l2:1", "--limit", "15", "--out", tmp_path / "run")
    told = {finding.check: finding for finding in log.read_summary(tmp_path / "run").findings}
    level = told["loss along the attacks"]
    assert level.verdict == "warning"
    assert "more questions" not in level.remedy
    for name, norms in (("hop_skip_jump", {2, math.inf}), ("geoda", {2, math.inf}), ("boundary", {2})):
        assert name in level.remedy
        assert catalogue.attacks()[name].norms == norms
        assert catalogue.access(catalogue.attacks()[name]) == "labels"


def test_a_stopped_run_goes_on_and_ends_the_same(forest: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    for path in (*shards(out), out / "summary.json", out / "doctor.json"):
        path.unlink()
    audit(forest, *SQUARE, "--out", out)
    assert files(out) == files(run)
    assert_same_run(out, run)
    assert log.read_probes(out) == log.read_probes(run)


def test_another_forest_is_another_run(forest: Path, run: Path, tmp_path: Path) -> None:
    skops.io.dump(fitted(RandomForestClassifier(5, random_state=1)), tmp_path / "forest.skops")
    shutil.copytree(run, tmp_path / "run")
    answer = ask("audit", tmp_path / "forest.skops", *SQUARE, "--out", tmp_path / "run")
    assert answer.code == 2
    assert "model_digest" in answer.err


def test_by_itself_an_audit_takes_attacks_that_fit(forest: Path) -> None:
    data = load_data("digits", limit=3)
    threats, attacks = standard(data, [], [], "scores")
    assert threats
    assert attacks
    assert all(catalogue.needs(catalogue.attack(one)) != "gradients" for one in attacks)
    assert standard(data, [], [], "gradients") == standard(data, [], [])
    assert standard(data, ["linf:0.3"], [], "scores")[0] == ["linf:0.3"]


@pytest.mark.parametrize("attack", ["pgd", "autoattack", "jsma"])
def test_what_needs_more_is_refused_and_leaves_nothing(forest: Path, tmp_path: Path, attack: str) -> None:
    threat = "l0:5" if attack == "jsma" else "linf:0.1"
    answer = ask("audit", forest, "--attack", attack, "--threat", threat, "--limit", "5", "--out", tmp_path / "run")
    assert answer.code == 2
    assert "needs gradients, the model gives scores only" in answer.err
    assert "sapper attacks --access scores" in answer.err
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What fools a network."""
    path = tmp_path_factory.mktemp("learned") / "v.safetensors"
    network = load_model(str(trained(tmp_path_factory))).module
    universal = sapper.fit(network, load_data("digits", split="train", limit=100).x, threat="linf:0.3")
    universal.perturbation.save(path)
    return path


class TestLabels:
    def test_there_are_no_confidences(self, vote: Path, learned: Path, tmp_path: Path) -> None:
        audit(
            vote,
            "--attack",
            f"universal:file={learned}",
            "--threat",
            "linf:0.3",
            "--limit",
            "30",
            "--out",
            tmp_path / "run",
        )
        cases = rows(tmp_path / "run")
        assert cases["found"].any()
        for name in NULL_WITHOUT_SCORES:
            assert cases[name].is_null().all()
        assert pl.read_parquet(tmp_path / "run" / "samples.parquet")["clean_confidence"].is_null().all()
        assert {finding.check for finding in log.read_summary(tmp_path / "run").findings} >= {
            "access",
            "clean accuracy",
        }
        assert {probe.name for probe in log.read_probes(tmp_path / "run")} <= {"random noise", "surrogate"}
        assert "nan" not in (tmp_path / "run" / "report.html").read_text().lower().replace("financ", "")

    @pytest.mark.parametrize("goal", ["confidence:0.5", "targeted:least-likely"])
    def test_goals_about_scores_are_refused(self, vote: Path, goal: str, tmp_path: Path) -> None:
        answer = ask("audit", vote, *SQUARE, "--goal", goal, "--out", tmp_path / "run")
        assert answer.code == 2
        assert f"the goal {goal} is about scores, the model gives labels only" in answer.err

    def test_scores_are_more_than_there_is(self, vote: Path, tmp_path: Path) -> None:
        answer = ask("audit", vote, *SQUARE, "--out", tmp_path / "run")
        assert answer.code == 2
        assert "square:steps=40 needs scores, the model gives labels only" in answer.err


@pytest.mark.parametrize("access", ["labels", "scores", "gradients"])
def test_attacks_are_listed_by_access(access: str) -> None:
    found = json.loads(ask("attacks", "--access", access, "--json").out)
    every = {name: catalogue.access(method) for name, method in catalogue.attacks().items()}
    assert {one["name"] for one in found} == {
        name for name, needed in every.items() if catalogue.serves(needed, access)
    }
    listed = ask("attacks", "--access", access).out
    assert ("autoattack" in listed) == (access == "gradients")
    assert ("standard_scores" in listed) == (access != "labels")


def test_words_of_trust_are_part_of_the_command(tmp_path: Path) -> None:
    path = tmp_path / "tree.joblib"
    joblib.dump(fitted(DecisionTreeClassifier(max_depth=5)), path)
    answer = ask("audit", path, *SQUARE, "--out", tmp_path / "run")
    assert answer.code == 2
    assert "--trust-pickle" in answer.err
    audit(path, *SQUARE, "--trust-pickle", "--no-doctor", "--out", tmp_path / "run")
    command = log.read_environment(tmp_path / "run")["command"]
    assert " --trust-pickle --limit 30 " in command
    audit(*command.split()[2:], "--out", tmp_path / "run")


def test_a_batch_is_not_measured_by_gradients(forest: Path) -> None:
    from sapper.goal import Untargeted
    from sapper.oracle import TorchOracle
    from sapper.scheduler import measure_batch, usual_batch

    x = torch.rand(2048, 1, 8, 8)
    oracle = TorchOracle(load_model(str(forest)).module)
    assert measure_batch(oracle, x, Untargeted(torch.zeros(2048, dtype=torch.int64))) == usual_batch(x)
