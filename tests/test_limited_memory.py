import torch

from sapper.limited_memory import Memory
from sapper.tensors import join, take

AXES = torch.tensor([1.0, 10.0, 0.1, 4.0], dtype=torch.float64)
EVERY = torch.tensor([True])


def drawn(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def remembering(rows: int, steps: int, kept: int = 3) -> tuple[Memory, torch.Tensor]:
    """Steps on a bowl of unequal axes, and the last of them."""
    memory, moved = Memory.none(torch.zeros(rows, 4, dtype=torch.float64), kept), torch.zeros(rows, 4)
    for step in range(steps):
        moved = drawn(rows, step)
        memory = memory.remembering(moved, moved * AXES, torch.ones(rows, dtype=torch.bool))
    return memory, moved


def test_with_nothing_remembered_it_is_the_gradient():
    gradient = drawn(2, 0)
    direction = Memory.none(gradient, 3).direction(gradient, torch.ones(2, 4, dtype=torch.bool), 0.5)
    torch.testing.assert_close(direction, -0.5 * gradient)


def test_the_last_step_answers_the_change_of_gradient_that_it_made():
    """The secant equation, which the two loops keep whatever was remembered before."""
    for steps in (1, 2, 3, 7):
        memory, moved = remembering(3, steps)
        direction = memory.direction(moved * AXES, torch.ones(3, 4, dtype=torch.bool), 1.0)
        torch.testing.assert_close(direction, -moved)


def test_along_the_axes_of_a_bowl_it_is_newton_s():
    memory = Memory.none(torch.zeros(1, 4, dtype=torch.float64), 4)
    for axis in torch.eye(4, dtype=torch.float64):
        memory = memory.remembering(axis[None], axis[None] * AXES, EVERY)
    gradient = drawn(1, 5)
    torch.testing.assert_close(memory.direction(gradient, torch.ones(1, 4, dtype=torch.bool), 1.0), -gradient / AXES)


def test_it_leads_down_and_leaves_alone_what_may_not_move():
    memory, _ = remembering(20, 5)
    gradient, free = drawn(20, 9), drawn(20, 10) > 0
    direction = memory.direction(gradient, free, 1.0)
    assert not direction[~free].any()
    assert ((direction * gradient).sum(1)[free.any(1)] < 0).all()


def test_a_step_along_which_the_gradient_does_not_grow_is_not_remembered():
    memory, _ = remembering(2, 2)
    moved = drawn(2, 7)
    after = memory.remembering(moved, torch.stack([-moved[0], moved[1]]), torch.tensor([True, True]))
    assert torch.equal(take(after, slice(0, 1)).moved, take(memory, slice(0, 1)).moved)
    assert torch.equal(after.moved[1, 0], moved[1])
    assert torch.equal(after.moved[1, 1:], memory.moved[1, :-1])  # the oldest is forgotten


def test_rows_that_remember_different_numbers_of_steps_do_not_disturb_each_other():
    first, second = remembering(2, 1)[0], remembering(3, 6)[0]
    gradient, free = drawn(5, 3), torch.ones(5, 4, dtype=torch.bool)
    both = join(first, second).direction(gradient, free, 0.5)
    alone = [first.direction(gradient[:2], free[:2], 0.5), second.direction(gradient[2:], free[2:], 0.5)]
    torch.testing.assert_close(both, torch.cat(alone))


def test_what_is_forgotten_is_forgotten_in_its_rows_only():
    memory, _ = remembering(2, 3)
    after = memory.forgotten(torch.tensor([True, False]))
    assert not after.moved[0].any()
    assert not after.turned[0].any()
    assert torch.equal(after.moved[1], memory.moved[1])
