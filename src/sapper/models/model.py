"""What the rest of Sapper is given as "the model"."""

import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own spelling)
from torch import Tensor, nn

from sapper.errors import UsageError


@dataclass(frozen=True)
class Model:
    """A classifier that takes a batch in the data's units, and what is known about it before it is called."""

    name: str
    """Short and safe in a file name."""
    reference: str
    """What the user wrote to get it."""
    module: nn.Module
    """In evaluation mode, preprocessing inside. What it returns is the network's own; nothing is checked yet."""
    digest: str
    """SHA-256 of the weights, the preprocessing and, where a file holds the program, that file."""
    input_shape: tuple[int, ...] | None
    """Of one sample; None where the reference does not say."""
    classes: int | None
    """None where the reference does not say."""
    description: str


@dataclass(frozen=True)
class Network:
    """What a loader found: a network in evaluation mode, and what its source says about it."""

    module: nn.Module
    description: str
    input_shape: tuple[int, ...] | None = None
    classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    program: bytes = b""
    """The file, where it holds more than weights."""


class Preprocessed(nn.Module):
    """Resizes and standardises inputs, then calls the network; differentiable, so ε keeps the data's units."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, module: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], resize: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.module = module
        self.resize = resize
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())
        self.register_buffer("mean", torch.tensor(mean, dtype=dtype))
        self.register_buffer("std", torch.tensor(std, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        if self.resize is not None:
            x = F.interpolate(x, self.resize, mode="bilinear", align_corners=False, antialias=True)
        per_channel = (-1,) + (1,) * (x.ndim - 2)
        return self.module((x - self.mean.view(per_channel)) / self.std.view(per_channel))


def preprocessed(
    module: nn.Module,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: tuple[int, int] | None,
) -> nn.Module:
    """The network with its preprocessing in front, or the network itself where there is none."""
    if mean is None and std is None and resize is None:
        return module
    mean, std = mean or (0.0,), std or (1.0,)
    if min(std) <= 0:
        raise UsageError(f"expected standard deviations above 0, got {std}: give the ones the model was trained with.")
    if len(mean) != len(std) and 1 not in (len(mean), len(std)):
        raise UsageError(f"expected as many means as standard deviations, got {len(mean)} and {len(std)}.")
    if resize is not None and min(resize) < 1:
        raise UsageError(f"expected a height and a width of at least 1 to resize to, got {resize}.")
    return Preprocessed(module, mean, std, resize)


def digest(module: nn.Module, *parts: bytes) -> str:
    """SHA-256 over names, types, shapes and bytes of a module's parameters and buffers, and over `parts`."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    for part in parts:
        sha.update(part)
    return sha.hexdigest()
