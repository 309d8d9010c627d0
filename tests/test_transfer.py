"""Crafted on a substitute, submitted to the model, judged by what that answers."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from audits import adversarial, ask, audit, logits, rows, shards, trained
from sapper import catalogue, log, noise
from sapper.foreign import Foreign
from sapper.goal import Untargeted
from sapper.models.training import train
from sapper.oracle import TorchOracle
from sapper.scheduler import craft_cases
from sapper.threat import Threat
from toys import linear, network, samples

SHORT = ("--limit", "40", "--seed", "3")
TWO_BUDGETS = (*SHORT, "--threat", "linf:0.1", "--threat", "linf:0.3", "--attack", "mifgsm")


class Counting(nn.Module):
    """A model of labels, counting rows."""

    def __init__(self, module: nn.Module, classes: int) -> None:
        super().__init__()
        self.asked = 0

        def answer(x: np.ndarray) -> np.ndarray:
            self.asked += len(x)
            return module(torch.from_numpy(x)).argmax(1).numpy()

        self.endpoint = Foreign(answer, "labels", classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.endpoint(x)


def transferred(substitute: nn.Module, endpoint: nn.Module, x: Tensor, y: Tensor, attack: str, threat: str):
    return craft_cases(
        TorchOracle(substitute), catalogue.attack(attack), x, Untargeted(y), Threat.parse(threat),
        noise.keys(0, torch.arange(len(x))), judge=TorchOracle(endpoint), transfer=True, batch_size=7,
    )  # fmt: skip


def test_the_endpoint_is_asked_once_a_row_and_judges_alone() -> None:
    substitute, other = network(seed=0).requires_grad_(requires_grad=False), network(seed=5)
    x, y = samples(substitute)
    endpoint = Counting(other.requires_grad_(requires_grad=False), 4)
    crafted = transferred(substitute, endpoint, x, y, "pgd:steps=5", "linf:0.2")
    assert endpoint.asked == len(x)
    answers = other(crafted.x_adv).argmax(1)
    assert torch.equal(crafted.predictions, answers)
    assert torch.equal(crafted.found, answers != y)  # also of those that did not fool the substitute


def test_attacks_go_on_to_the_whole_budget() -> None:
    weight = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    model = linear(weight).requires_grad_(requires_grad=False)
    x, y = torch.full((3, 2), 0.52), torch.zeros(3, dtype=torch.int64)
    shifted = linear(weight, torch.tensor([0.1, -0.1])).requires_grad_(requires_grad=False)  # fooled below, by more
    x = x - 0.5  # legal in [0, 1]; the substitute's boundary is at a sum of 0, which no box point is below
    crafted = transferred(model, shifted, x + 0.4, y, "bim:steps=10", "linf:0.3")
    torch.testing.assert_close(crafted.x_adv, torch.full((3, 2), 0.12))


def test_what_the_substitute_is_surest_of_is_kept_and_never_the_sample_itself() -> None:
    substitute = network(seed=0).requires_grad_(requires_grad=False)
    x, y = samples(substitute)
    goal, threat = Untargeted(y), Threat.parse("linf:0.2")
    near = transferred(substitute, substitute, x, y, "mifgsm:steps=10", "linf:0.2")
    barely = craft_cases(
        TorchOracle(substitute), catalogue.attack("mifgsm:steps=10"), x, goal, threat,
        noise.keys(0, torch.arange(len(x))), batch_size=7,
    )  # fmt: skip
    both = near.found & barely.found
    assert both.any()
    assert (goal.margin(substitute(near.x_adv)) <= goal.margin(substitute(barely.x_adv)) + 1e-6)[both].all()
    assert (threat.distance(near.x_adv, x) > 0).all()
    assert threat.legal(near.x_adv, x).all()


def test_one_step_attacks_submit_that_step_whatever_it_did() -> None:
    substitute = network(seed=0).requires_grad_(requires_grad=False)
    x, y = samples(substitute)
    crafted = transferred(substitute, network(seed=5), x, y, "fgsm", "linf:0.15")
    leaf = x.clone().requires_grad_()
    nn.functional.cross_entropy(substitute(leaf), y, reduction="sum").backward()
    assert leaf.grad is not None
    torch.testing.assert_close(crafted.x_adv, (x + 0.15 * leaf.grad.sign()).clamp(0, 1))


def test_the_smallest_change_is_the_substitutes_and_judged_by_the_endpoint() -> None:
    substitute = network(seed=0).requires_grad_(requires_grad=False)
    x, y = samples(substitute)
    endpoint = Counting(network(seed=5).requires_grad_(requires_grad=False), 4)
    crafted = transferred(substitute, endpoint, x, y, "ddn:steps=20", "l2:min")
    assert endpoint.asked == len(x)
    assert torch.equal(crafted.found, crafted.predictions != y)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory)


@pytest.fixture(scope="module")
def stolen(endpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The steal folder of one made at the command line."""
    out = tmp_path_factory.mktemp("steal") / "out"
    answer = ask(
        "steal", endpoint, "--seed-data", "digits", "--split", "train", "--budget", "500", "--architecture", "softmax",
        "--epochs", "60", "--out", out,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "450 questions to learn from, 50 to measure agreement: 500" in answer.out
    return out


@pytest.fixture(scope="module")
def run(endpoint: Path, stolen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("via") / "run"
    audit(endpoint, "--via", stolen, *TWO_BUDGETS, "--out", out)
    return out


def test_an_audit_by_a_substitute_is_judged_by_the_endpoint(run: Path, endpoint: Path) -> None:
    table, x_adv = rows(run), adversarial(run)
    predicted = logits(endpoint, x_adv).argmax(1)
    np.testing.assert_array_equal(table["prediction"], predicted)
    np.testing.assert_array_equal(table["found"], predicted != table["label"].to_numpy())
    assert table["forwards"].to_list() == [1] * 80
    assert table["fools_substitute"].is_not_null().all()
    assert table["survives_8_bits"].is_null().all()
    assert not (run / "doctor.json").exists()


def test_more_of_the_budget_carries_further(run: Path) -> None:
    near, far = log.read_summary(run).results
    assert (near.threat, far.threat) == ("linf:0.1", "linf:0.3")
    assert (near.success_rate or 0) < (far.success_rate or 0)
    assert (far.success_rate or 0) > 0.5


def test_the_run_says_what_it_was_crafted_on_and_what_it_cost(run: Path, stolen: Path) -> None:
    (finding,) = [one for one in log.read_summary(run).findings if one.check == "transfer"]
    agreement = json.loads((stolen / "rounds.json").read_text())["rounds"][-1]["agreement"]
    assert f"{stolen / 'substitute'} ({agreement:.1%} agreement)" in finding.evidence
    assert "it was asked 120 times, 40 of them about clean samples" in finding.evidence
    assert f"--via {stolen / 'substitute'}" in log.read_environment(run)["command"]


def test_the_report_shows_what_transfers(run: Path) -> None:
    page = (run / "report.html").read_text()
    table = rows(run).filter(pl.col("fools_substitute"))
    assert "What transfers" in page
    assert "The model was asked 120 questions in all" in page
    assert "mifgsm: the substitute" in page  # the curve's legend
    assert len(table) > 40


def test_the_report_of_a_theft_stands_alone_and_tells_every_round(stolen: Path) -> None:
    page = (stolen / "report.html").read_text()
    assert "After 500 questions a substitute answers as" in page
    assert page.count('alt="taken for') == 8 * 3  # seeds, and the two rounds that moved every input
    assert "<script" not in page
    (stolen / "report.html").unlink()
    assert ask("report", stolen).out.strip() == str(stolen / "report.html")
    assert (stolen / "report.html").read_text() == page
    assert "450" in page


def test_stealing_tells_its_rounds_as_json_and_is_not_done_twice(endpoint: Path, stolen: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in stolen.rglob("inputs.safetensors")}
    answer = ask(
        "steal", endpoint, "--seed-data", "digits", "--split", "train", "--budget", "500", "--architecture", "softmax",
        "--epochs", "60", "--out", stolen, "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert [one["new"] for one in told["rounds"]] == [100, 100, 191, 59]
    assert before == {path: path.stat().st_mtime_ns for path in stolen.rglob("inputs.safetensors")}
    known = log.read_environment(stolen)["command"]
    assert known == (
        f"sapper steal {endpoint} --seed-data digits --split train --budget 500 --held-out 50 --architecture softmax "
        "--epochs 60 --step-size 0.1"
    )


def test_what_cannot_be_stolen_is_said(endpoint: Path, tmp_path: Path) -> None:
    for words, message in (
        ((), "a budget of questions or a number of rounds"),
        (("--budget", "50"), "too small for 0 held-out samples and 100 seeds"),
        (("--rounds", "1", "--held-out", "900"), "held-out samples from 0 to the 400"),
        (("--rounds", "1", "--at-once", "0"), "at-once"),
    ):
        answer = ask("steal", endpoint, "--seed-data", "digits", "--out", tmp_path / "out", *words)
        assert answer.code == 2, words
        assert message in " ".join(answer.err.split())
    assert not (tmp_path / "out").exists()


def test_several_substitutes_are_one_by_their_mean(endpoint: Path, stolen: Path, tmp_path: Path) -> None:
    second = train("softmax", "digits", tmp_path / "second", split="train[:300]", epochs=20)
    audit(
        endpoint,
        "--via",
        stolen,
        "--via",
        second,
        *SHORT,
        "--threat",
        "linf:0.2",
        "--attack",
        "fgsm",
        "--out",
        tmp_path / "run",
    )
    assert log.read_spec(tmp_path / "run")["via"] == [str(stolen / "substitute"), str(second)]


def test_without_attacks_the_suite_for_substitutes_runs(endpoint: Path, stolen: Path, tmp_path: Path) -> None:
    audit(endpoint, "--via", stolen, "--limit", "5", "--out", tmp_path / "run")
    names = {(one.attack, one.threat) for one in log.read_summary(tmp_path / "run").results}
    assert names == {(attack, f"linf:0.{size}") for attack in ("fgsm", "mifgsm") for size in (1, 2, 3)}


def test_what_does_not_go_with_a_substitute_is_refused(endpoint: Path, stolen: Path, tmp_path: Path) -> None:
    answer = ask("audit", endpoint, "--via", stolen, "--queries", "5", "--out", tmp_path / "run")
    assert answer.code == 2
    assert "one question to the model" in answer.err
    weights = {"1.weight": np.zeros((3, 64), np.float32), "1.bias": np.zeros(3, np.float32)}
    told = json.dumps({"architecture": "softmax", "input_shape": [1, 8, 8], "classes": 3})
    save_file(weights, tmp_path / "three.safetensors", {"sapper": told})
    answer = ask("audit", endpoint, "--via", tmp_path / "three.safetensors", *SHORT, "--out", tmp_path / "run")
    assert answer.code == 2
    assert "10 classes, got 3" in answer.err


def test_a_stopped_transfer_goes_on_with_the_same_rows(endpoint: Path, stolen: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("--via", stolen, *TWO_BUDGETS, "--out", out)
    audit(endpoint, *words)
    shards(out)[1].unlink()
    (out / "summary.json").unlink()
    audit(endpoint, *words)
    np.testing.assert_array_equal(adversarial(out), adversarial(run))
