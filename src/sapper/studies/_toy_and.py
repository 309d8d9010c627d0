"""Fig. 3 to 5 of the JSMA paper: two sigmoids that learn AND, the cliff in their output, and the way over it."""

import numpy as np
import torch
from torch import Tensor, nn

from sapper.claims import Claim, Figure, Part, Table
from sapper.forward_derivative import forward_derivative
from sapper.lab import Lab
from sapper.report.figures import lines
from sapper.report.surfaces import Mark, surface

RATE, EPOCHS, SAMPLES = 0.0663, 100, 1000


def toy_and(lab: Lab) -> Part:
    """Trains the network over seeds, looks for the cliff along x1 = 1, and draws one."""
    seeds = range(lab.size(paper=10, smoke=1))
    networks = [train_and(seed, lab.size(paper=EPOCHS, smoke=5)) for seed in seeds]
    cliffs = [_cliff(network) for network in networks]
    rows: list[list[str | float | int | None]] = [
        [seed, _accuracy(network), *(None if np.isnan(v) else round(v, 3) for v in cliff), round(_value(network, 0.37), 3),
         round(_value(network, 0.43), 3)]
        for seed, network, cliff in zip(seeds, networks, cliffs, strict=True)
    ]  # fmt: skip
    width, place, low, high = (
        None if lab.scale != "paper" else float(np.nanmedian(values))
        for values in (
            [end - start for start, end in cliffs],
            [(start + end) / 2 for start, end in cliffs],
            [_value(network, 0.37) for network in networks],
            [_value(network, 0.43) for network in networks],
        )
    )
    shown = networks[0]
    agreement = _agreement(shown)
    return Part(
        title="Fig. 3 to 5: the AND network",
        text="Two inputs in [0, 1], two hidden sigmoids, one output, 1 000 uniform samples labelled by the AND of the "
        "rounded inputs, per-sample gradient descent on cross-entropy. Along x1 = 1 the output climbs a cliff; the table "
        "says where it passes 0.11 and 0.95, the outputs the paper shows at (1, 0.37) and (1, 0.43). Its cliff "
        "at 0.40 is one seed's; here it stands where the rounding puts the boundary, near 0.5.",
        claims=[
            Claim(what="width of the climb from 0.11 to 0.95 along x1 = 1 (median over seeds)", where="Fig. 3",
                  sure="derived", paper=0.06, within=(0.02, 0.12), measured=width, note="from 0.37 to 0.43"),
            Claim(what="middle of the climb (median over seeds)", where="Fig. 3", sure="derived", paper=0.40,
                  within=(0.35, 0.45), measured=place, note="the labels' own boundary is at 0.5"),
            Claim(what="output at (1, 0.37) (median over seeds)", where="section III", sure="stated", paper=0.11,
                  within=(0.0, 0.2), measured=low),
            Claim(what="output at (1, 0.43) (median over seeds)", where="section III", sure="stated", paper=0.95,
                  within=(0.85, 1.0), measured=high, note="here the cliff is further up"),
            Claim(what="largest difference of the recursion (Eq. 5-6) and automatic differentiation, relative",
                  where="Eq. 5-6", sure="derived", paper=0, within=(0, 1e-5), measured=agreement),
        ],
        tables=[Table(title="The cliff along x1 = 1", rows=rows,
                      columns=["seed", "accuracy %", "x2 at 0.11", "x2 at 0.95", "F(1, 0.37)", "F(1, 0.43)"])],
        figures=_figures(lab, shown),
    )  # fmt: skip


def train_and(seed: int, epochs: int) -> nn.Sequential:
    """The network, from its own generator; float64, so that the derivative can be judged."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 1), nn.Sigmoid()).double()
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.rand(weight.shape, generator=generator, dtype=torch.float64) * 2 - 1)
    x = torch.rand(SAMPLES, 2, generator=generator, dtype=torch.float64)
    y = x.round().prod(1, keepdim=True)
    for _ in range(epochs):
        _epoch(network, x, y, torch.randperm(SAMPLES, generator=generator))
    return network


def _epoch(network: nn.Sequential, x: Tensor, y: Tensor, order: Tensor) -> None:
    """One pass, sample by sample, with the gradient by hand: a graph for each sample would take ten times as long."""
    hidden, _, output, _ = network
    w1, b1 = hidden.weight.detach().numpy(), hidden.bias.detach().numpy()  # pyright: ignore
    w2, b2 = output.weight.detach().numpy()[0], output.bias.detach().numpy()  # pyright: ignore
    inputs, labels = x.numpy(), y.numpy()[:, 0]
    for i in order.tolist():
        h = 1 / (1 + np.exp(-(w1 @ inputs[i] + b1)))
        error = 1 / (1 + np.exp(-(w2 @ h + b2[0]))) - labels[i]  # of cross-entropy behind a sigmoid
        back = error * w2 * h * (1 - h)
        w2 -= RATE * error * h  # the arrays share the network's memory
        b2 -= RATE * error
        w1 -= RATE * np.outer(back, inputs[i])
        b1 -= RATE * back


def _value(network: nn.Sequential, x2: float) -> float:
    with torch.no_grad():
        return float(network(torch.tensor([[1.0, x2]], dtype=torch.float64)))


def _cliff(network: nn.Sequential) -> tuple[float, float]:
    """Where along x1 = 1 the output passes 0.11 and 0.95; nan where it does not."""
    x2 = torch.linspace(0, 1, 2001, dtype=torch.float64)
    with torch.no_grad():
        values = network(torch.stack([torch.ones_like(x2), x2], 1))[:, 0]
    low, high = (((values >= level).nonzero()[:1, 0]) for level in (0.11, 0.95))
    return tuple(float(x2[index[0]]) if len(index) else float("nan") for index in (low, high))  # pyright: ignore


def _accuracy(network: nn.Sequential) -> float:
    x = torch.rand(10_000, 2, generator=torch.Generator().manual_seed(12345), dtype=torch.float64)
    with torch.no_grad():
        return round(100 * float((network(x).round() == x.round().prod(1, keepdim=True)).double().mean()), 2)


def _agreement(network: nn.Sequential) -> float:
    x = torch.rand(100, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    ours = forward_derivative(network, x).detach()
    other = torch.func.vmap(torch.func.jacrev(network))(x).detach()
    return float((ours - other).abs().max() / other.abs().max())


def _figures(lab: Lab, network: nn.Sequential) -> list[Figure]:
    axis = torch.linspace(0, 1, 61, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)[:, [1, 0]]  # rows are x2
    with torch.no_grad():
        output = network(grid)[:, 0].reshape(61, 61).numpy()
    slope = forward_derivative(network, grid)[:, 0, 1].reshape(61, 61).numpy()
    low, high = _cliff(network)
    marks = [Mark(1.0, round(value, 2), f"(1, {value:.2f})") for value in (low, high) if value == value]
    first = surface(
        output,
        axis.numpy(),
        axis.numpy(),
        title="Output F(x1, x2)",
        x_title="x1",
        y_title="x2",
        value_title="F",
        marks=marks,
    )
    second = surface(slope, axis.numpy(), axis.numpy(), title="Forward derivative ∂F/∂x2", x_title="x1", y_title="x2",
                     value_title="∂F/∂x2")  # fmt: skip
    edge = lines({"F(1, x2)": (axis.numpy(), output[:, -1])}, title="The cliff along x1 = 1", x_title="x2", y_title="F")
    return [
        lab.figure("and-output.svg", first, "Fig. 3: the output, with the ends of the cliff along x1 = 1"),
        lab.figure("and-derivative.svg", second, "Fig. 4: the forward derivative by x2"),
        lab.figure("and-cliff.svg", edge, "Fig. 5: a small change of x2, an extreme change of the output"),
    ]
