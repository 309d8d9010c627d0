import torch

from sapper.descent import Moments, adam, shrunk
from sapper.tensors import join, take


def walk(start, steps, rate):
    """Ours and torch's, down the same bowl of unequal axes."""
    axes = torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64)
    ours, moments = start.clone(), Moments.none(start)
    theirs = start.clone().requires_grad_()
    reference = torch.optim.Adam([theirs], lr=rate)
    for _ in range(steps):
        step, moments = adam(2 * axes * ours, moments, rate)
        ours = ours + step
        reference.zero_grad()
        (axes * theirs.square()).sum().backward()
        reference.step()
    return ours, theirs.detach()


def test_it_is_adam():
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = walk(start, steps=50, rate=0.05)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_a_row_counts_its_own_steps():
    """A fresh row beside an old one takes the first step of a fresh row: its whole rate."""
    gradient = torch.tensor([[3.0, -4.0]])
    _, old = adam(gradient, Moments.none(gradient), 0.1)
    both = join(old, Moments.none(gradient))
    step, moments = adam(torch.cat([gradient, gradient]), both, 0.1)
    torch.testing.assert_close(step[1], torch.tensor([-0.1, 0.1]))
    assert moments.count.tolist() == [2, 1]
    alone, _ = adam(gradient, old, 0.1)
    assert torch.equal(step[:1], alone)
    assert take(moments, torch.tensor([1])).count.tolist() == [1]


def test_rows_are_cleared_each_for_itself():
    gradient = torch.ones(2, 3)
    _, moments = adam(gradient, Moments.none(gradient), 0.1)
    cleared = moments.cleared(torch.tensor([True, False]))
    assert cleared.count.tolist() == [0, 1]
    assert not cleared.mean[0].any()
    assert not cleared.square[0].any()
    assert torch.equal(cleared.mean[1], moments.mean[1])


def test_no_gradient_is_no_step():
    step, _ = adam(torch.zeros(2, 3), Moments.none(torch.zeros(2, 3)), 0.1)
    assert torch.equal(step, torch.zeros(2, 3))


def test_shrinking_draws_changes_to_0_by_each_row_s_amount_and_no_further():
    change = torch.tensor([[0.5, -0.5, 0.05, 0.0], [0.5, -0.5, 0.05, 0.0]])
    expected = torch.tensor([[0.4, -0.4, 0.0, 0.0], [0.5, -0.5, 0.05, 0.0]])
    torch.testing.assert_close(shrunk(change, torch.tensor([0.1, 0.0])), expected)
