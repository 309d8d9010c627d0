"""Stealing a model through its answers, into a folder that a kill loses nothing of.

    spec.toml                        what was asked, written first; environment.json: what it ran on
    held-out/                        samples that agreement is measured on, and what the model said of them (`answers`)
    rounds/02/                       what a round asked, and what the model said
    rounds/02/model/                 the substitute that learned all answers up to this round
    endpoint.json, queries.parquet   of models behind HTTP: every row that was sent, as in a run folder
    rounds.json                      agreement, questions and samples of each round (`Spoils`), after each round
    substitute/                      the last one, a model folder
    report.html

What has been answered is never asked again: a theft that was stopped goes on with the same command, and one whose budget was
spent with a larger one. Inputs that coincide, after clipping or rounding, with one that was asked about are left out, as in
the papers' union of sets: so each question is another row, and what a budget pays for.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from sapper import disk, log, noise
from sapper.answers import Endpoint, Inputs, kept, unlike
from sapper.checks import check_data
from sapper.data.dataset import Data
from sapper.environment import PACKAGES, commit
from sapper.errors import RunError, require_positive
from sapper.models.architecture import architecture as known_architecture
from sapper.models.folder import read_folder, write_folder
from sapper.models.model import digest
from sapper.models.remote import endpoint_of, write_queries
from sapper.models.training import Schedule as RateSchedule
from sapper.models.training import learn
from sapper.oracle import TorchOracle, frozen
from sapper.progress import CaseProgress
from sapper.statistics import wilson
from sapper.substitute import PAPERS, by_hyperplane, by_jacobian, reservoir
from sapper.tensors import Batch, Counts, Labels, join, take
from sapper.theft_spec import MODEL, ROUNDS, SUBSTITUTE, Round, Spoils, Theft, begun
from sapper.threat import Threat

_ROWS = 512


@dataclass(frozen=True)
class Stolen:
    """What `steal` brings."""

    module: nn.Module
    """The substitute, in evaluation mode."""
    folder: Path
    """Of the theft; its model folder is `folder / "substitute"`."""
    spoils: Spoils
    """Rounds and questions."""


def steal(
    model: nn.Module,
    x: Batch,
    *,
    out: Path,
    budget: int | None = None,
    architecture: str = "mlp",
    seeds: int = 100,
    held_out: int | None = None,
    rounds: int | None = None,
    step_size: float | None = None,
    period: int = 3,
    sigma: int | None = None,
    kappa: int = 400,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    momentum: float | None = None,
    rate_schedule: RateSchedule = "linear",
    bounds: tuple[float, float] = (0.0, 1.0),
    quantize: int | None = None,
    seed: int = 0,
    at_once: int = 100,
    console: Console | None = None,
) -> Stolen:
    """Trains a substitute of a model that is asked for labels only (Papernot et al. 2017).

        stolen = sapper.steal(model, x, out=Path("stolen"), budget=800)
        crafted = sapper.craft(stolen.module, x, y, attack="mifgsm:confidence=1000", threat="linf:0.3")

    Args:
        model: What is stolen; whatever it could give, it is asked for labels.
        x: Samples of the kind that it classifies, in `bounds`: the first `seeds` are learned from, the next are held out.
            Nobody needs to know their classes.
        out: The folder to write, or to go on in; with a larger `budget` or more `rounds` too.
        budget: Most questions in all, those about held-out samples too, each another row; without, `rounds` decides.
        architecture: Of the substitute: "lenet", "mlp", "softmax", "svm" or another of `sapper.models`.
        seeds: How many samples to begin with.
        held_out: How many to measure agreement on, each a question; by default 1000 or what is there, at most a tenth of
            the budget.
        rounds: Most augmentations; by default as many as the budget allows.
        step_size: How far new inputs are moved, in the data's units (lambda); by default a tenth of the range, for "svm"
            times the root of the number of features, as there it is a length.
        period: After so many rounds the direction alternates (tau); 0: never.
        sigma: After so many rounds only `kappa` inputs are moved; None: always all.
        kappa: How many new inputs a round asks about then.
        epochs: Of each round's training, which begins from scratch; this and the next three by default as the architecture's
            recipe says. The papers': 10, at a rate of 0.01 with momentum 0.9.
        batch_size: Samples a step.
        learning_rate: Of the first step.
        momentum: Share of the last step that is kept.
        rate_schedule: Whether the learning rate falls linearly to nought or stays ("constant"), as the papers' does.
        bounds: The range of legal inputs.
        quantize: Bits a feature: inputs are rounded to this grid before they are asked about (8 for pictures).
        seed: Of all random numbers.
        at_once: Rows asked about at once; what a kill loses at most.
        console: Where progress is shown.

    Raises:
        UsageError: Options that do not fit.
        DataError: Samples that do not fit.
        ModelError: The model does not answer like a classifier.
        RunError: `out` holds another theft, or cannot be written.
    """
    nothing = torch.zeros(len(x), dtype=torch.int64)
    check_data(x, nothing, None, Threat.parse("linf:min", lower=bounds[0], upper=bounds[1], quantize=quantize))
    data = Data("samples", x.detach().cpu().float(), nothing, (), bounds)
    spec = Theft(
        endpoint="a module", seed_data="a tensor", bounds=bounds, budget=budget, seeds=seeds, held_out=held_out,
        rounds=rounds, architecture=architecture, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        momentum=momentum, rate_schedule=rate_schedule, step_size=step_size, period=period, sigma=sigma, kappa=kappa,
        quantize=quantize, seed=seed, endpoint_digest=digest(model), data_digest=data.digest(),
    )  # fmt: skip
    data = pool(spec, data)
    spec = spec.settled(len(data), x[0].numel(), begun(out))
    substitute, spoils = rob(spec, model, data, out, console or Console(quiet=True), at_once=at_once)
    return Stolen(substitute, out, spoils)


def rob(
    spec: Theft, module: nn.Module, data: Data, out: Path, console: Console, *, at_once: int = 100
) -> tuple[nn.Module, Spoils]:
    """Does what the spec asks, or what is left of it, and writes the steal folder.

    Args:
        spec: Settled.
        module: What is stolen.
        data: The seeds, and the held-out samples behind them; of `pool`.
        out: The folder.
        console: Where progress is shown.
        at_once: Rows asked about at once.

    Returns:
        The substitute, and what came of it.
    """
    require_positive("at-once", at_once)
    if there := begun(out):
        spec.check_continues(there, out)
    spec.check(len(data))
    known_architecture(spec.architecture)  # an unknown one is refused before anything is asked
    _open(out, spec)
    done, ended = list[Round](), ""
    with frozen(module), CaseProgress(console) as progress:
        endpoint = Endpoint(module, progress, at_once)
        held, _ = _asked(endpoint, out / "held-out", spec.held, _samples(data.x[spec.seeds :][: spec.held]))
        known, substitute = _Known(data.x[:0], held.y[:0]), nn.Sequential()
        while not ended:
            number, folder = len(done), out / "rounds" / f"{len(done):02}"
            most = spec.most(number, len(known.x))
            moved = partial(_moved, folder, spec, number, most, known, held, substitute)
            new, among = _asked(endpoint, folder, most, moved if number else _samples(data.x[: spec.seeds]))
            known = join(known, new)
            begin = time.perf_counter()
            substitute = _learn(spec, known, _names(data, endpoint.classes), folder / MODEL)
            done.append(_measure(spec, number, len(new.x), known, held, substitute, time.perf_counter() - begin))
            ended = spec.ended(done, among)
            disk.write_json(out / ROUNDS, _spoils(spec, ended, done, _names(data, endpoint.classes)))
            if remote := endpoint_of(module):
                write_queries(out, remote)
            console.print(_line(done[-1]), markup=False, highlight=False)
    spoils = _spoils(spec, ended, done, _names(data, endpoint.classes))
    more = {"agreement": spoils.agreement} if spoils.agreement is not None else {}
    write_folder(out / SUBSTITUTE, substitute, spec.architecture, data.shape, tuple(spoils.classes), more)
    return substitute, spoils


@dataclass(frozen=True)
class _Known:
    """Inputs with the endpoint's answers."""

    x: Batch
    y: Labels


def _environment(spec: Theft) -> dict[str, object]:
    """What a reader needs beside the spec."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": spec.command(),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": commit(),
        "citations": [{**vars(paper), "bibtex": paper.bibtex()} for paper in PAPERS],
    }


def box(spec: Theft) -> Threat:
    """Which inputs may be asked about."""
    return Threat.parse("linf:min", lower=spec.bounds[0], upper=spec.bounds[1], quantize=spec.quantize)


def pool(spec: Theft, data: Data) -> Data:
    """The samples as they may be asked about, each once."""
    x = box(spec).rounded(data.x)
    places = unlike(x, x[:0])
    return replace(data, x=x[places], y=data.y[places])


def _open(out: Path, spec: Theft) -> None:
    """Begins the folder, or goes on in it."""
    if not (out / "spec.toml").exists() and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is there and is no steal folder: give another --out, or empty it.")
    disk.write_toml(out / "spec.toml", spec.plain())
    disk.sweep(out)
    known = log.read_environment(out) or _environment(spec)
    disk.write_json(out / "environment.json", {**known, "command": spec.command()})


def _asked(
    endpoint: Endpoint, folder: Path, most: int, make: Callable[[Counts], tuple[Inputs, int]]
) -> tuple[_Known, int]:
    """In the order of what they were made of, whichever were asked first; and among how many they were chosen."""
    inputs, among = kept(folder, most, make)
    known = _Known(inputs.x, endpoint.labels(inputs.x, folder))
    return take(known, inputs.source.argsort()), among


def _samples(x: Batch) -> Callable[[Counts], tuple[Inputs, int]]:
    return lambda _: (Inputs.of(x), len(x))


def _moved(
    folder: Path, spec: Theft, number: int, most: int, known: _Known, held: _Known, substitute: nn.Module, there: Counts
) -> tuple[Inputs, int]:
    """The known inputs moved as the substitute so far says: of those that this makes new so many, but for those that are
    there; and how many it makes new.
    """
    shutil.rmtree(folder / MODEL, ignore_errors=True)  # which has not learned what is made now
    moved = by_hyperplane if spec.architecture == "svm" else by_jacobian
    legal = box(spec)
    x = legal.rounded(legal.clip(moved(substitute, known.x, known.y, spec.schedule.step(number - 1))))
    new = unlike(x, torch.cat([known.x, held.x]))
    chosen = list(range(len(new)))
    if most < len(chosen):
        key = noise.keys(spec.seed, torch.tensor([number]))
        draws = noise.uniform(key, torch.zeros_like(key), len(chosen), torch.float64)[0]
        chosen = reservoir(draws.tolist(), most)
    done = set(there.tolist())
    rest = [new[one] for one in chosen if new[one] not in done][: most - len(done)]
    return Inputs(x[rest], torch.tensor(rest, dtype=torch.int64)), len(new)


def _names(data: Data, classes: int) -> tuple[str, ...]:
    return data.classes if len(data.classes) == classes else tuple(map(str, range(classes)))


def _learn(spec: Theft, known: _Known, names: tuple[str, ...], folder: Path) -> nn.Module:
    """From scratch, as the papers do, and not from the first weights of a model that was trained here with the same seed."""
    seed = int(noise.keys(spec.seed, torch.tensor([-1]))) & 0x7FFF_FFFF
    answers = Data("answers", known.x, known.y, names, spec.bounds)
    learn(
        spec.architecture, answers, folder, data=f"answers {answers.digest()[:16]}", epochs=spec.epochs,
        batch_size=spec.batch_size, learning_rate=spec.learning_rate, momentum=spec.momentum, schedule=spec.rate_schedule,
        seed=seed, checkpoints=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # weights that are filled afterwards are drawn first
        return read_folder(folder).module


def _measure(
    spec: Theft, number: int, new: int, known: _Known, held: _Known, substitute: nn.Module, seconds: float
) -> Round:
    alike = _alike(substitute, held)
    return Round(
        number=number,
        new=new,
        samples=len(known.x),
        queries=len(known.x) + len(held.x),
        step=spec.schedule.step(number - 1) if number else None,
        agreement=alike / len(held.x) if len(held.x) else None,
        ci95=wilson(alike, len(held.x)),
        learned=_alike(substitute, known) / len(known.x),
        seconds=seconds,
    )


def _alike(substitute: nn.Module, known: _Known) -> int:
    """On how many the two answer the same."""
    with frozen(substitute):
        oracle = TorchOracle(substitute)
        parts = zip(known.x.split(_ROWS), known.y.split(_ROWS), strict=True) if len(known.x) else ()
        return sum(int((oracle.labels(x) == y).sum()) for x, y in parts)


def _spoils(spec: Theft, ended: str, done: list[Round], names: tuple[str, ...]) -> Spoils:
    return Spoils(
        endpoint=spec.endpoint,
        seed_data=spec.seed_data,
        architecture=spec.architecture,
        budget=spec.budget,
        held_out_queries=spec.held,
        training_queries=done[-1].samples,
        queries=done[-1].queries,
        finished=bool(ended),
        ended=ended,
        classes=list(names),
        rounds=done,
    )


def _line(done: Round) -> str:
    alike = "" if done.agreement is None else f", agreement with the endpoint {done.agreement:.1%}"
    return f"round {done.number}: {done.new} new questions, {done.samples} samples{alike}"
