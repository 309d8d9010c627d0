"""Square windows of images, a place and a side a row, and the bumps that the Square attack fills them with.

A window is given by the offsets of the image's rows and columns from its corner, shaped so that they broadcast over
(rows, colours, height, width).
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from sapper.tensors import Batch, Counts, Flat, nonzero


def image(x: Batch) -> Tensor:
    """With colours, height and width: a picture as it is, other features folded into a square, the rest of it zeros."""
    if x.ndim in (3, 4):
        return x if x.ndim == 4 else x[:, None]
    features = x[0].numel()
    height = math.ceil(math.sqrt(features))
    width = math.ceil(features / height)
    return pad(x.flatten(1), (0, height * width - features)).reshape(-1, 1, height, width)


def features_of(image: Tensor, like: Batch) -> Batch:
    """The features that `image` folded."""
    return image.flatten(1)[:, : like[0].numel()].reshape(like.shape)


def offsets(draws: Flat, side: Counts, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A window somewhere in an image of this size, from two numbers in (0, 1) a row."""
    height, width = size
    top, left = (draws * (draws.new_tensor([height, width]) - side[:, None] + 1)).long().unbind(1)
    down, across = torch.arange(height, device=draws.device), torch.arange(width, device=draws.device)
    return (down - top[:, None])[:, None, :, None], (across - left[:, None])[:, None, None, :]


def inside(down: Tensor, across: Tensor, side: Counts) -> Tensor:
    """Flags of the features in the window."""
    side = side[:, None, None, None]
    return ((down >= 0) & (down < side)) & ((across >= 0) & (across < side))


def bump(down: Tensor, across: Tensor, side: Counts, window: Tensor, turned: Tensor, dtype: torch.dtype) -> Tensor:
    """A pyramid above its negative or, where turned, beside it; of length 1 (Andriushchenko et al. 2020, section 3.4).

    A feature at distance d from the middle of its half, in the direction where it is farther, has Σ 1/k² for k from d + 1.
    """
    down, across = torch.where(turned, across, down), torch.where(turned, down, across)
    side = side[:, None, None, None]
    half = side // 2
    upper = down < half
    middle = torch.where(upper, half // 2, half + (side - half) // 2)
    distance = torch.maximum((down - middle).abs(), (across - half).abs()).minimum(half + 1)
    sums = pad(torch.arange(1, int(half.max()) + 2, device=side.device, dtype=dtype).pow(-2).cumsum(0), (1, 0))
    height = torch.where(window, sums[half + 1] - sums[distance], 0)
    return unit(unit(height * upper) - unit(height * ~upper))


def unit(field: Tensor, over: tuple[int, ...] = (2, 3)) -> Tensor:
    """Of length 1 in each colour, or over other dimensions; where it is 0 it stays."""
    length = torch.linalg.vector_norm(field, dim=over, keepdim=True)
    return field / nonzero(length)
