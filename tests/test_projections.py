import math

import pytest
import torch
from torch import Tensor

from sapper.goal import Untargeted
from sapper.oracle import TorchOracle
from sapper.projections import Boundary, nearest_boundary
from sapper.threat import NORMS, Threat
from toys import exact_of, predict, random_linear

SEARCHED = pytest.mark.parametrize("norm", ["l1", "l2", "linf"])


def hyperplanes(rows: int = 40, features: int = 9) -> tuple[Tensor, Boundary]:
    """Some within the box's reach and some not; some derivatives are 0, some points at a wall."""
    draws = torch.Generator().manual_seed(3)
    x = torch.rand(rows, features, generator=draws, dtype=torch.float64)
    x[:, 0] = torch.arange(rows) % 2
    gradient = torch.randn(rows, features, generator=draws, dtype=torch.float64)
    gradient[::3, 1:4] = 0
    point = torch.rand(rows, features, generator=draws, dtype=torch.float64)
    lead = torch.randn(rows, generator=draws, dtype=torch.float64) * 1.5
    return x, Boundary(point, lead, gradient, torch.zeros(rows, dtype=torch.int64))


def threat_in(norm: str) -> Threat:
    return Threat.parse(f"{norm}:min")


def lead_at(boundary: Boundary, x: Tensor) -> Tensor:
    return boundary.lead + ((x - boundary.point) * boundary.gradient).sum(1)


def furthest_fall(norm: str, slope: Tensor, room: Tensor, radius: float) -> float:
    """By how much a linear function can fall within a ball and a box, found otherwise: bisection or a greedy walk."""
    if norm == "linf":
        return float((slope * room.clamp_max(radius)).sum())
    if norm == "l1":
        fall, left = 0.0, radius
        for i in slope.argsort(descending=True).tolist():
            step = min(left, float(room[i]))
            fall, left = fall + step * float(slope[i]), left - step
        return fall
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if torch.minimum(middle * slope, room).norm() < radius else (low, middle)
    return float((slope * torch.minimum(low * slope, room)).sum())


def least_radius(norm: str, slope: Tensor, room: Tensor, rise: float) -> float:
    low, high = 0.0, 10.0 * len(slope)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if furthest_fall(norm, slope, room, middle) < rise else (low, middle)
    return high


@SEARCHED
def test_the_change_is_the_smallest_within_the_box(norm: str) -> None:
    x, boundary = hyperplanes()
    change = boundary.change(x, threat_in(norm))
    assert ((x + change >= -1e-12) & (x + change <= 1 + 1e-12)).all()
    before, after = lead_at(boundary, x), lead_at(boundary, x + change)
    fall = torch.where(before[:, None] >= 0, -boundary.gradient, boundary.gradient)
    room = torch.where(fall > 0, 1 - x, x)
    within_reach = (fall.abs() * room).sum(1) > before.abs()
    assert 5 < int(within_reach.sum()) < len(x) - 5
    torch.testing.assert_close(after[within_reach], torch.zeros_like(after[within_reach]), rtol=0, atol=1e-9)
    size = torch.linalg.vector_norm(change, ord=NORMS[norm], dim=1)
    for row in within_reach.nonzero()[:, 0].tolist():
        least = least_radius(norm, fall[row].abs(), room[row], float(before[row].abs()))
        assert float(size[row]) == pytest.approx(least, rel=1e-6)


@SEARCHED
def test_beyond_reach_it_goes_as_far_as_the_box_allows(norm: str) -> None:
    x, boundary = hyperplanes()
    before = lead_at(boundary, x)
    fall = torch.where(before[:, None] >= 0, -boundary.gradient, boundary.gradient)
    corner = torch.where(fall > 0, 1.0, torch.where(fall < 0, 0.0, x))
    beyond = (fall * (corner - x)).sum(1) < before.abs()
    change = boundary.change(x, threat_in(norm))
    assert beyond.any()
    torch.testing.assert_close((x + change)[beyond], corner[beyond].double())


@SEARCHED
def test_without_a_gradient_nothing_moves(norm: str) -> None:
    x = torch.rand(2, 4)
    flat = Boundary(x, torch.tensor([1.0, -1.0]), torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    assert not flat.change(x, threat_in(norm), 0.05).any()
    assert (flat.distance(NORMS[norm]) == math.inf).all()


@SEARCHED
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_the_unit_of_the_logits_does_not_matter(norm: str, scale: float) -> None:
    x, exact = hyperplanes()
    lead, slope = exact.lead.float() / 9, exact.gradient.float()
    plain = Boundary(exact.point.float(), lead, slope, exact.rival)
    scaled = Boundary(exact.point.float(), lead * scale, slope * scale, exact.rival)
    change = scaled.change(x.float(), threat_in(norm))
    assert change.isfinite().all()
    torch.testing.assert_close(change, plain.change(x.float(), threat_in(norm)), rtol=1e-4, atol=1e-5)


@SEARCHED
def test_the_overshoot_goes_beyond_the_boundary(norm: str) -> None:
    x, boundary = hyperplanes()
    wide = Threat.parse("linf:min", lower=-99.0, upper=99.0) if norm == "linf" else threat_in(norm)
    before = lead_at(boundary, x)
    after = lead_at(boundary, x + boundary.change(x, wide, 0.05))
    if norm == "linf":
        torch.testing.assert_close(after, -0.05 * before, rtol=0, atol=1e-9)
    assert (after.abs() <= before.abs() + 1e-12).all()


@SEARCHED
def test_of_several_boundaries_the_nearest_is_found(norm: str) -> None:
    model = random_linear(features=12, classes=5)
    x = torch.rand(30, 12, generator=torch.Generator().manual_seed(2))
    y = predict(model, x)
    goal = Untargeted(y)
    logits, pull = TorchOracle(model).vjp(x)
    boundary = nearest_boundary(goal, x, logits, pull, goal.rivals(logits, 4), NORMS[norm])
    exact = exact_of(model).distance(x, y, Threat.parse(f"{norm}:1"))
    torch.testing.assert_close(boundary.distance(NORMS[norm]), exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("p", [2.0, math.inf])
def test_a_boundary_out_of_sight_gives_no_nan(p: float) -> None:
    point = torch.tensor([[0.2, 0.3]])
    one = Boundary(point, torch.tensor([5.0]), torch.tensor([[1e-40, 0.0]]), torch.tensor([1]))
    step = one.step(p, 0.02)
    assert not step.isnan().any()
    assert step[0, 1] == 0
