"""Stealing a model: exact counts, budgets kept, nothing asked twice, a substitute that answers alike."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import sapper
from sapper import log
from sapper.data.loading import load_data
from sapper.errors import DataError, ModelError, RunError, SapperError, UsageError
from sapper.foreign import Foreign
from sapper.models.loading import load_model
from sapper.models.training import train
from sapper.theft import steal
from sapper.theft_spec import read_spoils

SMALL = {"architecture": "svm", "epochs": 5, "seeds": 40}  # which moves no two inputs to the same place


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """Softmax regression on the digits: what is stolen."""
    return load_model(str(train("softmax", "digits", tmp_path_factory.mktemp("stolen") / "softmax"))).module


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return load_data("digits").x


class Counting:
    """The labels of a network, and every input it was asked about; after so many questions it is gone."""

    def __init__(self, network: nn.Module, until: float = float("inf")) -> None:
        self.network, self.until, self.asked = network, until, list[bytes]()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if len(self.asked) + len(x) > self.until:
            raise KeyboardInterrupt
        self.asked += [row.tobytes() for row in x]
        with torch.no_grad():
            return self.network(torch.from_numpy(x)).argmax(1).numpy()

    @property
    def module(self) -> nn.Module:
        return Foreign(self, "labels", 10)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_three_augmentations_of_forty_seeds_are_320_questions(
    network: nn.Module, x: torch.Tensor, tmp_path: Path
) -> None:
    counting = Counting(network)
    stolen = steal(counting.module, x, out=tmp_path / "out", rounds=3, held_out=100, **SMALL)
    spoils = stolen.spoils
    assert (spoils.training_queries, spoils.held_out_queries, spoils.queries) == (40 * 2**3, 100, 420)
    assert len(counting.asked) == 420
    assert [one.new for one in spoils.rounds] == [40, 40, 80, 160]
    assert [one.samples for one in spoils.rounds] == [40, 80, 160, 320]
    assert [one.queries for one in spoils.rounds] == [140, 180, 260, 420]
    assert [one.step for one in spoils.rounds] == [None, 0.8, 0.8, 0.8]
    assert (spoils.finished, spoils.ended) == (True, "all 3 rounds are done")
    assert spoils == read_spoils(tmp_path / "out")


def test_the_substitute_is_a_model_folder_and_agrees_as_often_as_is_said(
    network: nn.Module, x: torch.Tensor, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    stolen = steal(Counting(network).module, x, out=out, rounds=3, held_out=300, **{**SMALL, "epochs": 300})
    again = load_model(str(out / "substitute"))
    assert again.classes == 10
    held = x[40:340]
    alike = (again.module(held).argmax(1) == network(held).argmax(1)).double().mean().item()
    assert stolen.spoils.agreement == pytest.approx(alike)
    assert alike > 0.7
    assert torch.equal(stolen.module(held), again.module(held))


def test_new_inputs_are_the_known_moved_by_the_step(network: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    out = tmp_path / "out"
    steal(network, x, out=out, rounds=2, period=1, held_out=0, **{**SMALL, "architecture": "softmax"})
    asked = [load_file(out / "rounds" / f"0{number}" / "inputs.safetensors") for number in range(3)]
    first, second, third = (one["x"] for one in asked)
    assert torch.equal(first, x[:40])
    moved = (second - first).abs()
    inside = (first > 0.1) & (first < 0.9)
    torch.testing.assert_close(moved[inside], torch.full_like(moved[inside], 0.1))
    assert 0 <= float(second.min()) <= float(second.max()) <= 1
    known = torch.cat([first, second])[asked[2]["source"]]
    inside = (known > 0.1) & (known < 0.9)
    moved = (third - known).abs()[inside]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1))


def test_inputs_that_coincide_are_asked_about_once_and_the_budget_goes_on_to_others(
    network: nn.Module, x: torch.Tensor, tmp_path: Path
) -> None:
    counting, options = Counting(network), {**SMALL, "architecture": "softmax"}
    spoils = steal(counting.module, x, out=tmp_path / "out", budget=300, **options).spoils
    assert len(counting.asked) == len(set(counting.asked)) == spoils.queries == 300
    assert [one.new for one in spoils.rounds] == [40, 40, 45, 125, 20]
    assert spoils.ended.endswith("whose last had room for 20 of 250 new inputs")
    again = torch.cat([x[:60], x[30:]])  # so may samples
    other = steal(counting.module, again, out=tmp_path / "other", budget=300, **options).spoils
    assert [one.agreement for one in other.rounds] == [one.agreement for one in spoils.rounds]


@pytest.mark.parametrize("period", [0, 3])
def test_where_nothing_is_left_to_ask_it_ends(network: nn.Module, x: torch.Tensor, tmp_path: Path, period: int) -> None:
    counting, options = Counting(network), {**SMALL, "architecture": "softmax", "held_out": 0, "quantize": 1}
    spoils = steal(counting.module, x, out=tmp_path / "out", budget=1000, period=period, **options).spoils
    assert [one.new for one in spoils.rounds] == [40] + [0] * (
        period + 1
    )  # a tenth of the range leads back to the grid
    assert len(counting.asked) == spoils.queries == 40
    assert spoils.finished
    assert spoils.ended.endswith("nothing is left to ask")


def test_a_hard_budget_is_spent_and_kept_held_out_samples_included(
    network: nn.Module, x: torch.Tensor, tmp_path: Path
) -> None:
    counting = Counting(network)
    spoils = steal(counting.module, x, out=tmp_path / "out", budget=250, **SMALL).spoils
    assert len(counting.asked) == spoils.queries == 250
    assert spoils.held_out_queries == 25
    assert [one.new for one in spoils.rounds] == [40, 40, 80, 65]
    assert (
        spoils.ended
        == "the budget of 250 questions allows no more rounds, whose last had room for 65 of 160 new inputs"
    )
    with pytest.raises(UsageError, match="a budget of 50 is too small for 20 held-out samples and 40 seeds"):
        steal(counting.module, x, out=tmp_path / "other", budget=50, held_out=20, **SMALL)
    assert not (tmp_path / "other").exists()


def test_a_reservoir_keeps_the_questions_few(network: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    spoils = steal(network, x, out=tmp_path / "out", rounds=4, sigma=2, kappa=30, held_out=0, **SMALL).spoils
    assert [one.new for one in spoils.rounds] == [40, 40, 80, 30, 30]
    assert spoils.training_queries == 40 * 2**2 + 30 * 2
    assert spoils.agreement is None
    assert all(one.agreement is None and one.ci95 is None for one in spoils.rounds)


@pytest.mark.parametrize("architecture", ["svm", "softmax"])
@pytest.mark.parametrize("until", [0, 70, 110, 299])
def test_stopped_anywhere_it_asks_nothing_twice_and_ends_the_same(
    network: nn.Module, x: torch.Tensor, tmp_path: Path, until: int, architecture: str
) -> None:
    whole = tmp_path / "whole"
    options = {**SMALL, "architecture": architecture, "budget": 300, "at_once": 16}
    one = steal(Counting(network).module, x, out=whole, **options)
    first, second = Counting(network, until), Counting(network)
    with pytest.raises(KeyboardInterrupt):
        steal(first.module, x, out=tmp_path / "out", **options)
    two = steal(second.module, x, out=tmp_path / "out", **options)
    assert len(first.asked + second.asked) == len(set(first.asked + second.asked)) == 300
    assert one.spoils.rounds[-1].agreement == two.spoils.rounds[-1].agreement
    assert files(whole) == files(tmp_path / "out")
    for path in whole.rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "out" / path.relative_to(whole)).read_bytes()
    third = Counting(network)
    steal(third.module, x, out=tmp_path / "out", **options)
    assert not third.asked


@pytest.mark.parametrize(("architecture", "new"), [("svm", [40, 40, 80, 160, 60]), ("softmax", [40, 40, 45, 125, 130])])
@pytest.mark.parametrize(("first", "until"), [(250, None), (250, 210), (60, None), (110, 90), (270, None)])
def test_a_larger_budget_goes_on_where_it_stood_and_ends_as_if_begun_with_it(
    network: nn.Module,
    x: torch.Tensor,
    tmp_path: Path,
    first: int,
    until: int | None,
    architecture: str,
    new: list[int],
) -> None:
    options = {**SMALL, "architecture": architecture, "at_once": 16, "held_out": 20}
    before, after, whole = Counting(network, until or math.inf), Counting(network), Counting(network)
    with pytest.raises(KeyboardInterrupt) if until else nullcontext():
        steal(before.module, x, out=tmp_path / "out", budget=first, **options)
    raised = steal(after.module, x, out=tmp_path / "out", budget=400, **{**options, "held_out": None}).spoils
    at_once = steal(whole.module, x, out=tmp_path / "whole", budget=400, **options).spoils
    asked = before.asked + after.asked
    assert len(asked) == raised.queries == raised.budget == 400
    assert raised.held_out_queries == 20
    assert [one.new for one in raised.rounds] == [one.new for one in at_once.rounds] == new
    assert [one.agreement for one in raised.rounds] == [one.agreement for one in at_once.rounds]
    assert sorted(asked) == sorted(whole.asked)
    assert "--budget 400" in log.read_environment(tmp_path / "out")["command"]
    one, two = ((tmp_path / name / "substitute" / "weights.safetensors").read_bytes() for name in ("out", "whole"))
    assert one == two


def test_a_round_that_is_cut_short_twice_keeps_what_it_has(network: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    counting, options = Counting(network), {**SMALL, "held_out": 0}
    for budget in (100, 130, 170):
        spoils = steal(counting.module, x, out=tmp_path / "out", budget=budget, **options).spoils
        assert len(counting.asked) == spoils.queries == budget
    assert [one.new for one in spoils.rounds] == [40, 40, 80, 10]
    sources = load_file(tmp_path / "out" / "rounds" / "02" / "inputs.safetensors")["source"]
    assert sources.tolist() != list(range(80))
    assert sorted(sources.tolist()) == list(range(80))


def test_more_rounds_go_on_too(network: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    counting, options = Counting(network), {**SMALL, "held_out": 0}
    for rounds in (1, 3):
        spoils = steal(counting.module, x, out=tmp_path / "out", rounds=rounds, **options).spoils
        assert len(counting.asked) == spoils.queries == 40 * 2**rounds


def test_a_smaller_budget_is_refused(network: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    counting, options = Counting(network), {**SMALL, "held_out": 0, "rounds": 1}
    steal(counting.module, x, out=tmp_path / "out", budget=60, **options)
    with pytest.raises(RunError, match=r"was begun with --budget 60: give as much, or more to go on, .*; got 59"):
        steal(counting.module, x, out=tmp_path / "out", budget=59, **options)
    with pytest.raises(RunError, match=r"was begun with --rounds 1: .*; got 0"):
        steal(counting.module, x, out=tmp_path / "out", budget=60, **{**options, "rounds": 0})
    assert len(counting.asked) == 60
    steal(counting.module, x, out=tmp_path / "out", **options)  # no budget at all
    assert len(counting.asked) == 80
    with pytest.raises(RunError, match=r"was begun with no --budget: .*; got 500"):
        steal(counting.module, x, out=tmp_path / "out", budget=500, **options)
    with pytest.raises(RunError, match=r"seed: 0 there, 1 here"):
        steal(counting.module, x, out=tmp_path / "out", budget=500, seed=1, **options)


def test_it_may_go_on_with_other_rows_at_once(network: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    first, second = Counting(network, 110), Counting(network)
    with pytest.raises(KeyboardInterrupt):
        steal(first.module, x, out=tmp_path / "out", budget=200, at_once=16, **SMALL)
    steal(second.module, x, out=tmp_path / "out", budget=200, at_once=7, **SMALL)
    assert len(first.asked) + len(second.asked) == 200


CHILD = """
import sys, time
from pathlib import Path
import numpy as np
import torch
from sapper.data.loading import load_data
from sapper.foreign import Foreign
from sapper.theft import steal

def ask(x):
    with open(sys.argv[2], "ab") as ledger:
        ledger.write(b"q" * len(x))
    time.sleep(0.01)
    return (x.reshape(len(x), -1).sum(1) * 3).astype("int64") % 10

torch.set_num_threads(1)
steal(Foreign(ask, "labels", 10), load_data("digits").x, out=Path(sys.argv[1]), budget=400, architecture="softmax", epochs=2,
      seeds=40, at_once=10)
"""


def test_killed_it_loses_at_most_the_batch_in_flight(tmp_path: Path) -> None:
    out, ledger = tmp_path / "out", tmp_path / "ledger"
    command = [sys.executable, "-c", CHILD, str(out), str(ledger)]

    def killed(when: Callable[[], bool]) -> None:
        with subprocess.Popen(command, env=os.environ) as child:
            end = time.monotonic() + 60
            while not when():
                assert child.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < end
                time.sleep(0.002)
            os.kill(child.pid, signal.SIGKILL)

    killed(lambda: len(list(out.rglob("answers/*"))) >= 9)
    subprocess.run(command, check=True)
    assert 400 <= ledger.stat().st_size <= 400 + 10
    assert read_spoils(out).queries == 400


def test_a_folder_of_another_theft_is_left_alone(network: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    options = {**SMALL, "rounds": 0, "held_out": 0}
    steal(network, x, out=tmp_path / "out", **options)
    with pytest.raises(RunError, match=r"seed: 0 there, 1 here"):
        steal(network, x, out=tmp_path / "out", seed=1, **options)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter").write_text("dear")
    with pytest.raises(RunError, match="no steal folder"):
        steal(network, x, out=tmp_path / "other", **options)


def test_an_endpoint_that_changes_its_classes_is_no_longer_the_same(x: torch.Tensor, tmp_path: Path) -> None:
    sizes = iter([10, 10, 11])

    def ask(x: np.ndarray) -> np.ndarray:
        return np.zeros((len(x), next(sizes)), np.float32)

    with pytest.raises(ModelError, match=r"11 classes .* and had 10 before"):
        steal(Foreign(ask, "scores"), x, out=tmp_path / "out", rounds=1, at_once=30, held_out=0, **SMALL)


def test_answers_that_are_no_numbers_are_not_kept(x: torch.Tensor, tmp_path: Path) -> None:
    sick = Foreign(lambda x: np.full((len(x), 3), np.nan, np.float32), "scores")
    with pytest.raises(ModelError, match="nan"):
        steal(sick, x, out=tmp_path / "out", rounds=0, **SMALL)
    assert not list((tmp_path / "out").rglob("answers/*"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, UsageError, "neither"),
        ({"rounds": -1}, UsageError, "rounds"),
        ({"rounds": 1, "seeds": 600}, DataError, "600 seeds"),
        ({"rounds": 1, "held_out": 9999}, DataError, "from 0 to the 460"),
        ({"rounds": 1, "architecture": "mlpp"}, UsageError, "did you mean mlp"),
        ({"rounds": 1, "step_size": -0.1}, UsageError, "step_size"),
        ({"rounds": 1, "at_once": 0}, UsageError, "at-once"),
        ({"rounds": 1, "seeds": 0}, UsageError, "seeds"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    network: nn.Module, x: torch.Tensor, tmp_path: Path, options: dict, error: type[SapperError], message: str
) -> None:
    counting = Counting(network)
    with pytest.raises(error, match=message):
        steal(counting.module, x, out=tmp_path / "out", **{**SMALL, **options})
    assert not counting.asked
    assert not (tmp_path / "out").exists()


def test_samples_beyond_their_bounds_are_refused(network: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected x within \[0, 1\]"):
        steal(network, 2 * x, out=tmp_path / "out", rounds=1, **SMALL)
    assert not (tmp_path / "out").exists()


def test_a_support_vector_machine_can_be_the_substitute(network: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    options = {**SMALL, "architecture": "svm", "rounds": 1, "held_out": 100, "epochs": 200}
    stolen = steal(network, x, out=tmp_path / "out", **options)
    first, second = (load_file(tmp_path / "out" / "rounds" / f"0{n}" / "inputs.safetensors")["x"] for n in range(2))
    length = (second - first).flatten(1).norm(dim=1)
    assert float(length.max()) <= 0.8 * (
        1 + 1e-5
    )  # a tenth of the range, times the root of 64 features; less if clipped
    assert float(length.min()) > 0.3
    assert stolen.spoils.agreement is not None
    assert stolen.spoils.agreement > 0.5


def test_rounded_inputs_are_what_the_endpoint_is_asked_about(
    network: nn.Module, x: torch.Tensor, tmp_path: Path
) -> None:
    steal(network, x, out=tmp_path / "out", rounds=1, quantize=4, held_out=0, **SMALL)
    asked = load_file(tmp_path / "out" / "rounds" / "01" / "inputs.safetensors")["x"] * 15
    torch.testing.assert_close(asked, asked.round())


def test_it_is_a_function_of_sapper_and_leaves_the_model_as_it_was(
    network: nn.Module, x: torch.Tensor, tmp_path: Path
) -> None:
    assert sapper.steal is steal
    network.train()
    state = torch.get_rng_state()
    sapper.steal(network, x, out=tmp_path / "out", rounds=1, **SMALL)
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)
    network.eval()
    assert json.loads((tmp_path / "out" / "rounds.json").read_text())["version"] == 1


def test_the_learning_rate_may_stay(network: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    falls = steal(network, x, out=tmp_path / "falls", rounds=0, held_out=0, **SMALL)
    stays = steal(network, x, out=tmp_path / "stays", rounds=0, held_out=0, rate_schedule="constant", **SMALL)
    one, two = (next(found.module.parameters()) for found in (falls, stays))
    assert not torch.equal(one, two)
    assert 'schedule = "constant"' in (tmp_path / "stays" / "rounds" / "00" / "model" / "model.toml").read_text()


def test_the_substitute_does_not_begin_with_the_first_weights_of_a_model_of_the_same_seed(
    x: torch.Tensor, tmp_path: Path
) -> None:
    """A thief who knew them would agree more often than any real one."""
    still = {"epochs": 1, "learning_rate": 1e-12}
    victim = load_model(str(train("softmax", "digits", tmp_path / "victim", seed=0, **still))).module
    stolen = steal(victim, x, out=tmp_path / "theft", architecture="softmax", seeds=20, rounds=0, seed=0, **still)
    first, other = (next(iter(module.parameters())).flatten() for module in (victim, stolen.module))
    assert torch.corrcoef(torch.stack([first, other]).detach())[0, 1].abs() < 0.3
