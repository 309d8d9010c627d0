"""Is the model's gradient the slope of its outputs? The first thing that every gradient attack takes for granted.

The margin of the predicted class is differentiated at some clean samples and set against differences of two calls, a small
step apart in random directions.
"""

import math

import torch

from sapper import noise
from sapper.errors import ModelError
from sapper.goal import Untargeted
from sapper.log import Finding
from sapper.oracle import GradientOracle
from sapper.tensors import Batch, Scalars

_STEP = 0.002  # of the data's range, a feature
_DIRECTIONS = 4
_FAINT = 100  # widths of the box that a linear model with this gradient would have to go
_NAME = "gradients"
_REMEDY = (
    "gradient attacks see nothing there, whatever they report: attack with scores or labels only, or with the layer that "
    "hides the gradient (rounding, detaching, a saturated activation) replaced by a smooth one"
)


def check_gradients(oracle: GradientOracle, x: Batch, bounds: tuple[float, float], *, is_random: bool) -> Finding:
    """The finding on the gradients at samples x.

    Args:
        oracle: The model as the attacks will see it.
        x: Clean samples.
        bounds: The legal range of a feature.
        is_random: The model's outputs are, so differences of two calls say nothing.
    """
    inside, step = _inside(x, bounds)
    goal = Untargeted(oracle.labels(inside))
    try:
        logits, pull = oracle.vjp(inside)
        gradient = pull(goal.cotangent("margin", logits))
    except (ModelError, RuntimeError) as error:  # RuntimeError: how torch says that an operation has no derivative
        return Finding(_NAME, "warning", f"there are none: {str(error).partition(chr(10))[0].rstrip('.')}", _REMEDY)
    margin, length = goal.margin(logits), gradient.flatten(1).abs().sum(1)
    hidden = _hidden(margin, length, bounds[1] - bounds[0])
    on_the_walls = _followed(oracle, x)  # where the samples themselves may lie
    bad = int((~length.isfinite() | ~on_the_walls.flatten(1).isfinite().all(1)).sum())
    share = float(hidden.double().mean())
    if bad:
        return Finding(_NAME, "warning", f"nan or infinity at {bad} of {len(x)} clean samples", _REMEDY)
    if share > 0.05:
        zero = int((length == 0).sum())
        evidence = f"zero at {zero} of {len(x)} clean samples, vanishing at {int(hidden.sum()) - zero}"
        return Finding(_NAME, "warning", evidence, _REMEDY)
    told = None if is_random else _told(oracle, inside, goal, gradient, step)
    if told is None:
        return Finding(_NAME, "ok", f"neither zero nor vanishing at {len(x)} clean samples", "")
    evidence = f"they tell {max(0.0, told):.0%} of how the margins change when {len(x)} clean samples change a little"
    return Finding(_NAME, "ok", evidence, "") if told > 0.5 else Finding(_NAME, "warning", evidence, _REMEDY)


def lost(oracle: GradientOracle, x: Batch) -> int:
    """At how many samples the gradient of the predicted class's margin is exactly zero."""
    return int((_followed(oracle, x) == 0).flatten(1).all(1).sum())


def _followed(oracle: GradientOracle, x: Batch) -> Batch:
    """The gradient of the predicted class's margin."""
    logits, pull = oracle.vjp(x)
    return pull(Untargeted(logits.argmax(1)).cotangent("margin", logits))


def _inside(x: Batch, bounds: tuple[float, float]) -> tuple[Batch, float]:
    """The samples, far enough from the walls of the box for a step to either side."""
    lower, upper = bounds
    step = _STEP * min(upper - lower, max(float(x.max() - x.min()), torch.finfo(x.dtype).eps))
    return x.clamp(lower + step, upper - step), step


def _hidden(margin: Scalars, length: Scalars, width: float) -> torch.Tensor:
    """Where a linear model with this gradient would not fall by any change in the box, or in a hundred of it."""
    return (length == 0) | (margin > _FAINT * (width if math.isfinite(width) else 1e6) * length)


def _told(oracle: GradientOracle, x: Batch, goal: Untargeted, gradient: Batch, step: float) -> float | None:
    """The share of the margins' changes (their squares) that the gradient foretells; None where rounding hides them."""
    if torch.finfo(x.dtype).bits < 32:
        return None
    zeros, index = torch.zeros(len(x), dtype=torch.int64, device=x.device), torch.arange(len(x), device=x.device)
    wanted, seen = [], []
    for number in range(_DIRECTIONS):
        draws = noise.uniform(noise.keys(0, index), zeros + number, x[0].numel(), x.dtype, stream=9)
        change = step * (draws - 0.5).sign().reshape(x.shape)
        ahead, behind = oracle.logits(x + change), oracle.logits(x - change)
        wanted.append(2 * (gradient * change).flatten(1).sum(1))
        seen.append(goal.margin(ahead) - goal.margin(behind))
    foretold, measured = torch.cat(wanted).double(), torch.cat(seen).double()
    rounding = 100 * torch.finfo(x.dtype).eps * float(oracle.logits(x).abs().max())
    if float(measured.square().mean().sqrt()) < rounding:
        return 0.0 if float(foretold.square().mean().sqrt()) > rounding else None
    # by rows, so that no sample with large margins stands for all
    size = measured.reshape(_DIRECTIONS, -1).square().sum(0).sqrt().repeat(_DIRECTIONS).clamp_min(rounding)
    return float(1 - ((measured - foretold) / size).square().sum() / (measured / size).square().sum())
