"""The soft-min step, as published and in logarithms, on a nearest-neighbour classifier of scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

import sapper
from sapper.data.loading import load_data
from sapper.foreign import Foreign
from sapper.learners import Neighbours
from sapper.models.estimators import from_estimator
from toys import drawn, predict

DIGITS = load_data("digits", split="train", limit=600)
TEST = load_data("digits", limit=80)


def larger(x: Tensor, times: int) -> Tensor:
    """Every pixel as a square of so many."""
    return x.repeat_interleave(times, 2).repeat_interleave(times, 3)


def module(times: int = 1, neighbours: int = 1) -> nn.Module:
    estimator = KNeighborsClassifier(neighbours)
    return from_estimator(
        estimator.fit(larger(DIGITS.x, times).flatten(1).double().numpy(), DIGITS.y.numpy()), "knn"
    ).module


def known(points: Tensor, labels: list[int]) -> Foreign:
    """The nearest of these, with what it is made of."""
    learner = Neighbours(points, torch.tensor(labels))

    def ask(x: np.ndarray) -> np.ndarray:
        away = torch.cdist(torch.from_numpy(x).double(), points.double())
        return learner.labels[away.argmin(1)].numpy()

    return Foreign(ask, "labels", max(labels) + 1, learner=learner)


def attacked(model: nn.Module, x: Tensor, threat: str, form: str, y: Tensor | None = None, **options):
    y = predict(model, x) if y is None else y
    return sapper.craft(model, x, y, attack=f"nearest_neighbour:form={form}", threat=threat, **options)


POINTS = torch.tensor([[0.0, 0.0], [0.25, 0.5], [1.0, 0.0], [0.75, 1.0]])
OWN = [0, 0, 1, 2]


@pytest.mark.parametrize("form", ["log", "paper"])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_the_step_is_the_derivative_of_the_soft_min(form: str, label: int) -> None:
    """Where nothing underflows both forms are, taken by autograd."""
    x = drawn(400, 2).double()
    x = x[predict(known(POINTS, OWN), x) == label]
    assert len(x) > 10
    leaf = x.clone().requires_grad_()
    weight = (-torch.cdist(leaf, POINTS.double()).square()).softmax(1)
    share = weight[:, torch.tensor(OWN) == label].sum()
    (gradient,) = torch.autograd.grad(share, leaf)
    result = attacked(known(POINTS, OWN), x, "l2:0.05", form)
    torch.testing.assert_close(result.x_adv, x - 0.05 * gradient / gradient.norm(dim=1, keepdim=True))
    result = attacked(known(POINTS, OWN), x, "linf:0.05", form)
    torch.testing.assert_close(result.x_adv, x - 0.05 * gradient.sign())


@pytest.mark.parametrize("form", ["log", "paper"])
def test_targets_draw_towards_their_points(form: str) -> None:
    model, x = known(POINTS, OWN), torch.tensor([[0.25, 0.25]])
    to_one, to_two = (
        attacked(model, x, "l2:0.125", form, targets=torch.tensor([target])).x_adv - x for target in (1, 2)
    )
    assert to_one[0, 0] > to_one[0, 1]
    assert to_two[0, 1] > to_two[0, 0]


def test_as_published_the_derivative_underflows_and_in_logarithms_it_does_not() -> None:
    """Digits as squares of 8 x 8: 4096 features, squared distances 64 times those of 64."""
    model, x = module(8), larger(TEST.x, 8)
    log, paper = (attacked(model, x, "linf:0.3", form) for form in ("log", "paper"))
    change = [(result.x_adv - x).flatten(1).abs().amax(1) for result in (log, paper)]
    assert int((change[1] == 0).sum()) > 10
    assert (change[0] > 0.29).all()
    assert int(log.found.sum()) > int(paper.found.sum())


def test_where_nothing_underflows_both_forms_find_the_same() -> None:
    model = module()
    log, paper = (attacked(model, TEST.x, "linf:0.2", form).found for form in ("log", "paper"))
    assert log.equal(paper)
    assert log.any()


@pytest.mark.parametrize("threat", ["l0:12", "l1:4", "l2:1", "linf:0.25"])
def test_several_neighbours_vote_and_fall(threat: str) -> None:
    model = module(neighbours=5)
    result = attacked(model, TEST.x, threat, "log")
    assert int(result.found.sum()) > 20
    assert result.found.equal(predict(model, result.x_adv) != predict(model, TEST.x))
    assert (result.forwards == 2).all()


def test_a_box_without_end_is_measured_in_the_units_of_the_data() -> None:
    model, x = known(POINTS, OWN), torch.tensor([[0.3, 0.3]])
    bounds = {"bounds": (-math.inf, math.inf)}
    expected = attacked(model, x, "linf:0.1", "log").x_adv
    torch.testing.assert_close(attacked(model, x, "linf:0.1", "log", **bounds).x_adv, expected)
