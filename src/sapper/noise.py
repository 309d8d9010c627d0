"""Random numbers by counting: a function of (key of the sample, its age, element), never of a global state.

So what a sample draws depends neither on its batch, nor on the worker, nor on where a run was resumed.
The generator is a counter through the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014), in int64 arithmetic, which wraps alike on every device.
"""

import math

import torch
from torch import Tensor

from sapper.tensors import Counts, Flat

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def keys(seed: int, index: Counts) -> Counts:
    """A key for each sample of a run."""
    return mix(mix(torch.full_like(index, seed)) + index * _GOLDEN)


def mix(words: Tensor) -> Tensor:
    """The bits of int64 words, well mixed."""
    words = (words ^ _shift(words, 30)) * _MIX_1
    words = (words ^ _shift(words, 27)) * _MIX_2
    return words ^ _shift(words, 31)


def uniform(key: Counts, age: Counts, count: int, dtype: torch.dtype, *, stream: int = 0) -> Flat:
    """`count` numbers a row, uniform in the open interval (0, 1)."""
    bits, real = (52, torch.float64) if dtype == torch.float64 else (23, torch.float32)
    element = torch.arange(1, count + 1, device=key.device)
    start = mix(key + mix(age * 1024 + stream))
    words = mix(start[:, None] + element * _GOLDEN)
    return ((_shift(words, 64 - bits).to(real) + 0.5) * 2.0**-bits).to(dtype)


def normal(key: Counts, age: Counts, count: int, dtype: torch.dtype, *, stream: int = 0) -> Flat:
    """`count` numbers a row, standard normal (Box and Muller)."""
    half = -(-count // 2)
    first, second = uniform(key, age, 2 * half, dtype, stream=stream).split(half, dim=1)
    radius, angle = (-2 * first.log()).sqrt(), 2 * math.pi * second
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]


def _shift(words: Tensor, by: int) -> Tensor:
    """A right shift that brings in zeros, which torch's own on int64 does not."""
    return (words >> by) & ((1 << (64 - by)) - 1)
