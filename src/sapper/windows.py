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


def inside(down: Tensor, across: Tensor, side: Counts, dtype: torch.dtype) -> Tensor:
    """1 for the features in the window, 0 for the others."""
    side = side[:, None, None, None]
    return ((down >= 0) & (down < side)).to(dtype) * ((across >= 0) & (across < side)).to(dtype)


def bump(down: Tensor, across: Tensor, side: Counts, window: Tensor, turned: Tensor) -> Tensor:
    """A pyramid above its negative or, where turned, beside it; of length 1 (Andriushchenko et al. 2020, section 3.4).

    A feature at distance d from the middle of its half, in the direction where it is farther, has Σ 1/k² for k from d + 1.
    """
    side = side[:, None, None, None]
    half, dtype = side // 2, window.dtype
    sums = pad(torch.arange(1, int(half.max()) + 2, device=side.device, dtype=dtype).pow(-2).cumsum(0), (1, 0))

    def heights(offset: Tensor, middle: Tensor) -> Tensor:
        """As far as this direction allows."""
        return sums[half + 1] - sums[(offset - middle).abs().minimum(half + 1)]

    def split(offset: Tensor) -> tuple[Tensor, Tensor]:
        """Flags of the first half, and the heights, in the direction in which one half follows the other."""
        first = offset < half
        return first.to(dtype), heights(offset, torch.where(first, half // 2, half + (side - half) // 2))

    (above, below_each_other), (left, beside_each_other) = split(down), split(across)
    vertical = torch.where(turned, heights(down, half), below_each_other)
    horizontal = torch.where(turned, beside_each_other, heights(across, half))
    height = torch.minimum(vertical, horizontal) * window
    first = torch.where(turned, 1.0, above) * torch.where(turned, left, 1.0)
    return unit(unit(height * first) - unit(height * (1 - first)))


def unit(field: Tensor, over: tuple[int, ...] = (2, 3)) -> Tensor:
    """Of length 1 in each colour, or over other dimensions; where it is 0 it stays."""
    length = torch.linalg.vector_norm(field, dim=over, keepdim=True)
    return field / nonzero(length)
