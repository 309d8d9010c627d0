import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import sapper
from sapper.oracle import TorchOracle
from sapper.workers import doors, side_by_side
from toys import identical, network, samples


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3, "whoever shares torch's threads out gives them back"
    torch.set_num_threads(before)


class Remembering(nn.Module):
    """Keeps its activations, as many models do; between two threads they would be mixed up."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.last = model, None

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.model(x)
        return self.last


class Locked(nn.Module):
    """Cannot be copied."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.lock = model, threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.model(x)


class Fails(nn.Module):
    def __init__(self, model: nn.Module, message: str) -> None:
        super().__init__()
        self.model, self.message = model, message

    def forward(self, x: Tensor) -> Tensor:
        if threading.current_thread() is not threading.main_thread():
            raise ValueError(self.message)
        return self.model(x)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("attack", ["pgd:steps=6", "jsma", "3*pgd:steps=3"])
def test_workers_give_what_one_gives_in_the_order_given(attack: str) -> None:
    model = network()
    x, y = samples(model, rows=110)
    options = {"attack": attack, "threat": "l0:4" if attack == "jsma" else "linf:0.12"}
    assert len(doors(TorchOracle(model), x, 110)) == 3
    several = sapper.craft(model, x, y, **options)
    assert identical(several, sapper.craft(model, x, y, **options))
    torch.set_num_threads(1)
    one = sapper.craft(model, x, y, **options)
    torch.set_num_threads(3)
    assert 0 < int(one.found.sum()) < 110
    for name in ("found", "predictions", "steps", "forwards", "backwards", "broken"):
        assert torch.equal(getattr(several, name), getattr(one, name)), name
    torch.testing.assert_close(several.x_adv, one.x_adv, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("three_threads")
def test_seconds_of_workers_add_up_to_no_more_than_the_clock_says() -> None:
    model = network()
    x, y = samples(model, rows=300)
    begin = time.perf_counter()
    result = sapper.craft(model, x, y, attack="pgd:steps=20", threat="linf:0.05")
    assert 0 < float(result.seconds.sum()) <= time.perf_counter() - begin


@pytest.mark.usefixtures("three_threads")
def test_the_copies_share_the_weights_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    first, *others = [door.module for door in doors(TorchOracle(model), torch.rand(96, 4), 96)]
    assert first is model
    assert len(others) == 2
    for other in others:
        assert other[0] is not model[0]
        assert other[0].weight is model[0].weight
        assert other[1].running_mean is not model[1].running_mean


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("kind", ["remembers", "cannot be copied", "has hooks", "few rows", "small batch"])
def test_one_worker_where_the_model_cannot_be_shared_or_the_work_is_little(kind: str) -> None:
    model, rows, size = network(), 200, 200
    if kind == "remembers":
        model = Remembering(model)
    elif kind == "cannot be copied":
        model = Locked(model)
    elif kind == "has hooks":
        next(iter(model.children())).register_forward_hook(lambda *_: None)
    elif kind == "few rows":
        rows = 63
    else:
        size = 63
    x, y = samples(model, rows=rows)
    oracle = TorchOracle(model)
    assert doors(oracle, x, size) == [oracle]
    assert len(sapper.craft(model, x, y, attack="fgsm", threat="linf:0.1", batch_size=size).found) == rows


@pytest.mark.usefixtures("three_threads")
def test_one_worker_under_autocast_which_holds_for_its_thread_alone() -> None:
    model = network()
    x, _ = samples(model, rows=96)
    with torch.autocast("cpu", torch.bfloat16):
        assert len(doors(TorchOracle(model), x, 96)) == 1


@pytest.mark.usefixtures("three_threads")
def test_an_error_in_one_worker_is_the_error_of_all() -> None:
    model = network()
    x, y = samples(model, rows=96)
    with pytest.raises(sapper.errors.ModelError, match="out of paper"):
        sapper.craft(Fails(model, "out of paper"), x, y, attack="pgd", threat="linf:0.1")


@pytest.mark.usefixtures("three_threads")
def test_the_first_error_stops_the_others_at_their_next_report() -> None:
    reports: list[int] = []

    def work(number: int, tell) -> None:
        if number == 1:
            raise KeyError("worker 1")
        for done in range(10_000):
            time.sleep(0.001)
            reports.append(done)
            tell(done, 0)

    with pytest.raises(KeyError, match="worker 1"):
        side_by_side(work, 3, None)
    assert len(reports) < 10_000


@pytest.mark.usefixtures("three_threads")
def test_progress_sums_over_the_workers_and_never_falls() -> None:
    model = network()
    x, y = samples(model, rows=120)
    seen: list[tuple[int, int]] = []
    result = sapper.craft(
        model, x, y, attack="pgd:steps=6", threat="linf:0.12", progress=lambda *counts: seen.append(counts)
    )
    assert all(later[0] >= earlier[0] for earlier, later in zip(seen, seen[1:], strict=False))
    assert seen[-1] == (120, int(result.found.sum()))


@pytest.mark.parametrize("rows", [1, 16, 32, 33, 57, 255, 256, 257, 512])
def test_batches_have_few_sizes_and_the_answer_only_the_rows_asked_about(rows: int) -> None:
    sizes: list[int] = []

    def watched(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return torch.stack([x.sum(1), -2 * x.sum(1)], 1)

    module = nn.Module()
    module.forward = watched
    oracle, x = TorchOracle(module), torch.rand(rows, 5)
    logits, pull = oracle.vjp(x)
    assert logits.shape == (rows, 2)
    assert torch.equal(oracle.logits(x), logits)
    assert torch.equal(pull(torch.tensor([[1.0, 1.0]]).expand(rows, 2)), torch.full((rows, 5), -1.0))
    assert rows <= sizes[0] <= rows * 17 / 16
    assert sizes[0] % max(1, 1 << ((rows - 1).bit_length() - 5 if rows > 32 else 0)) == 0


def test_batches_of_all_sizes_come_in_few_shapes() -> None:
    shapes: set[int] = set()

    def watched(x: Tensor) -> Tensor:
        shapes.add(len(x))
        return torch.zeros(len(x), 2)

    module = nn.Module()
    module.forward = watched
    for rows in range(1, 513):
        TorchOracle(module).logits(torch.zeros(rows, 1))
    assert len(shapes) == 32 + 4 * 16
