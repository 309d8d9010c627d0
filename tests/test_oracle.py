from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sapper.errors import ModelError
from sapper.oracle import GradientOracle, LabelOracle, ScoreOracle, TorchOracle, frozen
from toys import network, samples


class Answers(nn.Module):
    """A model that answers whatever it is told to."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(x)


BAD = {
    "a tuple": (lambda x: (x, x), "one tensor of logits.*got a tuple"),
    "a dictionary": (lambda x: {"logits": x}, "got a dict"),
    "nothing": (lambda x: None, "got a NoneType"),
    "one column": (lambda x: x[:, :1], r"at least 2 classes, got \(5, 1\).*two columns"),
    "no column": (lambda x: x[:, 0], r"got \(5,\).*two columns"),
    "too few rows": (lambda x: x[:3], r"shape \(5, classes\).*got \(3, 4\)"),
    "too many rows": (lambda x: torch.cat([x, x]), r"got \(10, 4\)"),
    "a picture": (lambda x: x[:, None, None], r"got \(5, 1, 1, 4\)"),
    "integers": (lambda x: x.long(), "floating point, got torch.int64"),
    "a class": (lambda x: x.argmax(1), r"got \(5,\)"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("way", ["labels", "logits", "vjp"])
def test_a_model_that_does_not_answer_like_a_classifier_is_refused(name: str, way: str) -> None:
    answer, message = BAD[name]
    with pytest.raises(ModelError, match=message):
        getattr(TorchOracle(Answers(answer)), way)(torch.ones(5, 4))


@pytest.mark.parametrize("answer", [lambda x: x.detach(), lambda x: torch.zeros(5, 4)])
def test_an_answer_that_cannot_be_differentiated_is_refused_for_gradients_only(answer: Callable) -> None:
    oracle = TorchOracle(Answers(answer))
    assert oracle.logits(torch.ones(5, 4)).shape == (5, 4)
    with pytest.raises(ModelError, match="differentiated"):
        oracle.vjp(torch.ones(5, 4))


def test_a_model_whose_answer_ignores_its_input_has_zero_gradient() -> None:
    weight = nn.Parameter(torch.ones(5, 4))
    _, pull = TorchOracle(Answers(lambda x: weight * 1.0)).vjp(torch.ones(5, 4))
    assert torch.equal(pull(torch.ones(5, 4)), torch.zeros(5, 4))


def test_the_door_answers_as_the_model_does() -> None:
    model = network()
    x, _ = samples(model)
    oracle = TorchOracle(model)
    expected = model(x).detach()
    assert torch.equal(oracle.logits(x), expected)
    assert torch.equal(oracle.labels(x), expected.argmax(1))
    assert torch.equal(oracle.vjp(x)[0], expected)
    assert not oracle.logits(x).requires_grad
    assert not oracle.vjp(x)[0].requires_grad


def test_each_pull_is_one_row_of_the_jacobian_and_may_be_repeated() -> None:
    model = network(dtype=torch.float64)
    x, _ = samples(model, rows=3)
    jacobian = torch.autograd.functional.jacobian(lambda row: model(row[None])[0], x[1])
    _, pull = TorchOracle(model).vjp(x)
    for column in (2, 0, 2):
        cotangent = torch.zeros(3, 4, dtype=torch.float64)
        cotangent[1, column] = 1
        gradient = pull(cotangent)
        torch.testing.assert_close(gradient[1], jacobian[column])
        assert not gradient[[0, 2]].any()


def test_gradients_are_found_where_they_are_off_and_leave_nothing_behind() -> None:
    model = network()
    x, _ = samples(model)
    with torch.no_grad():
        _, pull = TorchOracle(model).vjp(x)
        assert pull(torch.ones(20, 4)).any()
    assert not x.requires_grad
    assert x.grad is None
    assert all(weight.grad is None for weight in model.parameters())


def test_doors_grant_the_access_they_are_named_for() -> None:
    oracle = TorchOracle(network())
    assert isinstance(oracle, LabelOracle)
    assert isinstance(oracle, ScoreOracle)
    assert isinstance(oracle, GradientOracle)
    assert not isinstance(network(), LabelOracle)


def mixed() -> nn.Module:
    """Parts in different modes, weights with and without gradients."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    return model


def modes_and_flags(model: nn.Module) -> tuple[list[bool], list[bool]]:
    return [part.training for part in model.modules()], [weight.requires_grad for weight in model.parameters()]


def test_frozen_is_evaluation_mode_without_gradients_for_weights() -> None:
    model = mixed()
    with frozen(model) as inside:
        assert inside is model
        modes, flags = modes_and_flags(model)
        assert not any(modes)
        assert not any(flags)


def test_frozen_leaves_everything_as_it_was() -> None:
    model = mixed()
    before = modes_and_flags(model)
    with frozen(model):
        pass
    assert modes_and_flags(model) == before
    assert before[0][1:3] == [True, False]
    assert before[1][0] is False


def test_frozen_leaves_everything_as_it_was_after_an_exception() -> None:
    model = mixed()
    before = modes_and_flags(model)
    with pytest.raises(KeyboardInterrupt), frozen(model):
        raise KeyboardInterrupt
    assert modes_and_flags(model) == before
