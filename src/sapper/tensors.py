"""Shapes by name, and what records of tensors need: take some rows, join two, choose row by row.

A *record* is a dataclass whose tensors all have the batch as their first dimension; what is not a tensor
(a threat, a number) belongs to all rows alike.
"""

from dataclasses import is_dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Batch = Float[Tensor, "rows *features"]
Flat = Float[Tensor, "rows features"]
Flags = Bool[Tensor, "rows features"]
ClassFlags = Bool[Tensor, "rows classes"]
Logits = Float[Tensor, "rows classes"]
Scalars = Float[Tensor, " rows"]
Labels = Int[Tensor, " rows"]
LabelSets = Int[Tensor, "rows ranks"]
Counts = Int[Tensor, " rows"]
Mask = Bool[Tensor, " rows"]

Record = TypeVar("Record")


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """One value a row, shaped so that it broadcasts over the rows of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def take(record: Record, rows: Tensor | slice) -> Record:
    """The record of these rows (indices, flags or a range), in this order."""
    if isinstance(rows, slice):
        return _map([record], lambda tensors: tensors[0][rows])
    index = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
    return _map([record], lambda tensors: tensors[0].index_select(0, index))  # whole rows: faster than indexing


def join(first: Record, second: Record) -> Record:
    """The rows of `first`, then those of `second`."""
    return _map([first, second], torch.cat)


def choose(rows: Tensor, first: Record, second: Record) -> Record:
    """Row by row: `first` where the flag is set, else `second`."""
    return _map([first, second], lambda tensors: torch.where(per_row(rows, tensors[0]), *tensors))


def scaled(values: Batch) -> tuple[Batch, Scalars]:
    """In units of each row's largest entry, so that no square of them underflows; and these units, which are never 0."""
    largest = nonzero(values.flatten(1).abs().amax(1))
    return values / per_row(largest, values), largest


def nonzero(divisor: Tensor) -> Tensor:
    """Sizes to divide by: 0 becomes the smallest number that its type holds in full."""
    return divisor.clamp_min(torch.finfo(divisor.dtype).tiny)


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """The type, or float32 in place of one of half precision: for sums and squares that this cannot hold."""
    return torch.promote_types(dtype, torch.float32)


def _map(records: list[Any], function: Any) -> Any:
    first = records[0]
    if isinstance(first, Tensor):
        return function(records)
    changed: dict[str, Any] = {}
    for name, value in vars(first).items():
        if isinstance(value, Tensor) or is_dataclass(value):
            mapped = _map([getattr(record, name) for record in records], function)
            if mapped is not value:
                changed[name] = mapped
    return replace(first, **changed) if changed else first
