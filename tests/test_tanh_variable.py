import math

import pytest
import torch

from sapper.tanh_variable import bounded, boxed, freed, slope
from sapper.threat import Threat

BOXES = pytest.mark.parametrize("box", [(0.0, 1.0), (0.0, 255.0), (-2.0, 3.0)])
FREE = Threat.parse("l2:min", lower=-math.inf, upper=math.inf)


def inputs(box, rows=4):
    lower, upper = box
    x = torch.linspace(lower, upper, 21, dtype=torch.float64)
    return x.expand(rows, 21), Threat.parse("l2:min", lower=lower, upper=upper)


@BOXES
def test_there_and_back_is_the_input_bounds_included(box):
    x, threat = inputs(box)
    torch.testing.assert_close(boxed(freed(x, threat), threat), x, rtol=0, atol=1e-12 * threat.width)
    assert freed(x, threat).isfinite().all()


@BOXES
def test_whatever_the_variable_the_input_is_in_the_box(box):
    threat = inputs(box)[1]
    far = torch.tensor([[-1e30, -3.0, 0.0, 3.0, 1e30]])
    x = boxed(far, threat)
    assert ((x >= box[0]) & (x <= box[1])).all()
    assert x.isfinite().all()


@BOXES
def test_the_slope_is_the_derivative_in_widths_of_the_box_and_never_vanishes_within_it(box):
    x, threat = inputs(box)
    free = freed(x[:, 1:-1], threat).requires_grad_()
    (gradient,) = torch.autograd.grad(boxed(free, threat).sum(), free)
    torch.testing.assert_close(slope(free.detach(), threat), gradient / threat.width)
    assert slope(freed(x, threat), threat).min() > 0.5  # 4·1e-6 with the authors' 0.999999, at the bounds


@BOXES
def test_the_variable_stops_at_the_bounds(box):
    x, threat = inputs(box)
    free = bounded(freed(x, threat) + 10, threat)
    torch.testing.assert_close(boxed(free, threat), torch.full_like(x, box[1]))
    inside = freed(x[:, 1:-1], threat)
    assert torch.equal(bounded(inside, threat), inside)


def test_without_bounds_it_is_the_input():
    x = torch.tensor([[-1e6, 0.0, 7.0]])
    assert torch.equal(freed(x, FREE), x)
    assert torch.equal(boxed(x, FREE), x)
    assert torch.equal(bounded(x, FREE), x)
    assert torch.equal(slope(x, FREE), torch.ones_like(x))
