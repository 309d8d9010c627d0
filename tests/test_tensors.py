from dataclasses import dataclass

import jaxtyping
import pytest
import torch
from torch import Tensor

from sapper.attack import State
from sapper.tensors import Batch, join, per_row, take


@dataclass(frozen=True)
class Inner:
    values: Tensor
    name: str = "name"


@dataclass(frozen=True)
class Outer:
    inner: Inner
    flags: Tensor
    maybe: Tensor | None = None


def record(*values: int) -> Outer:
    numbers = torch.tensor(values)
    return Outer(Inner(numbers), torch.stack([numbers, -numbers], 1))


def test_take_keeps_the_order_asked_for_at_every_depth() -> None:
    taken = take(record(5, 6, 7, 8), torch.tensor([3, 0]))
    assert taken.inner.values.tolist() == [8, 5]
    assert taken.flags.tolist() == [[8, -8], [5, -5]]
    assert taken.inner.name == "name"
    assert taken.maybe is None


def test_take_reads_flags_and_ranges_alike() -> None:
    flags = torch.tensor([False, True, True])
    assert take(record(1, 2, 3), flags).inner.values.tolist() == [2, 3]
    assert take(record(1, 2, 3), slice(1, 3)).inner.values.tolist() == [2, 3]
    assert take(record(1, 2, 3), slice(0)).flags.shape == (0, 2)


def test_join_puts_the_second_after_the_first() -> None:
    joined = join(record(1, 2), record(3))
    assert joined.inner.values.tolist() == [1, 2, 3]
    assert joined.flags.tolist() == [[1, -1], [2, -2], [3, -3]]


def test_records_are_not_changed_in_place() -> None:
    before = record(1, 2)
    take(before, torch.tensor([1])).flags.zero_()
    assert before.flags.tolist() == [[1, -1], [2, -2]]


def test_per_row_broadcasts_over_the_features_of_its_row() -> None:
    pictures = torch.ones(2, 3, 4, 5)
    assert (per_row(torch.tensor([2.0, 7.0]), pictures) * pictures)[:, 0, 0, 0].tolist() == [2, 7]


def test_shapes_are_checked_in_tests() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        State(x_adv=torch.zeros(2, 3), done=torch.zeros(3, dtype=torch.bool))
    assert isinstance(torch.zeros(2, 3), Batch)
