"""Transformations of pictures by which a gradient is made to fool other models too: see the attack `mifgsm`."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from sapper import noise
from sapper.tensors import Batch, Counts, LabelSets, nonzero, per_row


@dataclass(frozen=True)
class Resized:
    """Each picture made smaller, by its own factor, and put somewhere on an empty one of the old size (Xie et al. 2019)."""

    rows: torch.Tensor
    """For each picture and each row of pixels, the row that it shows; -1 where it is empty."""
    columns: torch.Tensor

    def apply(self, x: Batch, empty: float) -> Batch:
        """The pictures as they are shown, by nearest neighbours."""
        high, wide = self._places(x)
        shown = x.gather(2, high).gather(3, wide)
        return torch.where(self._filled(), shown, empty)

    def pull(self, gradient: Batch) -> Batch:
        """A gradient by what is shown, as the gradient by the pictures."""
        high, wide = self._places(gradient)
        back = torch.zeros_like(gradient).scatter_add(3, wide, gradient * self._filled())
        return torch.zeros_like(gradient).scatter_add(2, high, back)

    def _filled(self) -> torch.Tensor:
        return ((self.rows >= 0)[:, :, None] & (self.columns >= 0)[:, None, :])[:, None]

    def _places(self, x: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = self.rows.clamp_min(0), self.columns.clamp_min(0)
        return rows[:, None, :, None].expand_as(x), columns[:, None, None, :].expand_as(x)


def resized(x: Batch, key: Counts, age: Counts, probability: float, smallest: float) -> Resized:
    """A resizing for each picture: with this probability to between `smallest` of its size and all of it."""
    draws = noise.uniform(key, age, 4, torch.float64, stream=17)
    shrunk = 1 - (1 - smallest) * draws[:, 1]
    share = torch.where(draws[:, 0] < probability, shrunk, 1.0)
    return Resized(_shown(x.shape[2], share, draws[:, 2]), _shown(x.shape[3], share, draws[:, 3]))


def _shown(length: int, share: torch.Tensor, place: torch.Tensor) -> LabelSets:
    """Which pixel each of a line of pixels shows, when the line is shrunk to that share of it and put at a random place."""
    size = (share * length).round().long().clamp(1, length)
    first = (place * (length - size + 1)).long()
    here = torch.arange(length, device=share.device) - first[:, None]
    shown = here * length // size[:, None]
    return torch.where((here >= 0) & (here < size[:, None]), shown, -1)


def smoothed(gradient: Batch, width: int) -> Batch:
    """The gradient under a Gaussian kernel, three standard deviations to each side (Dong et al. 2019, Eq. 7).

    It stands for the mean over shifted pictures. What lies beyond the edge counts as 0.
    """
    line = torch.linspace(-3, 3, width, dtype=gradient.dtype, device=gradient.device).square().div(-2).exp()
    line = (line / line.sum()).reshape(1, 1, -1)
    flat = gradient.flatten(0, 1)[:, None]  # every colour for itself
    for kernel in (line[..., None], line[:, :, None]):
        flat = functional.conv2d(flat, kernel, padding=(kernel.shape[2] // 2, kernel.shape[3] // 2))
    return flat.reshape(gradient.shape)


def normalised(gradient: Batch) -> Batch:
    """Each row divided by its own l1 norm; a row without a gradient stays without."""
    length = nonzero(gradient.flatten(1).abs().sum(1))
    return gradient / per_row(length, gradient)
