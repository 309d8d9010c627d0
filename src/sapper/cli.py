"""The command line. Nothing heavy is imported before a command is known, so that help answers at once."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.text import Text

from sapper import __version__
from sapper.errors import SapperError

app = App(
    name="sapper",
    version=__version__,
    help="Attacks machine-learning models, hardens them, proves what can be proved, and reports honestly.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,
)
stdout = Console(emoji=False)  # a path or attack may well contain :x:
stderr = Console(stderr=True, emoji=False)

Many = Parameter(consume_multiple=True, negative=())
Repeat = Parameter(negative=())
Flag = Parameter(negative=())


@app.command
def audit(
    model: str = "lenet-digits",
    /,
    *,
    data: str = "digits",
    threat: Annotated[list[str] | None, Repeat] = None,
    attack: Annotated[list[str] | None, Repeat] = None,
    via: Annotated[list[str] | None, Repeat] = None,
    goal: str = "misclassification",
    limit: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    weights: Path | None = None,
    mean: Annotated[tuple[float, ...] | None, Many] = None,
    std: Annotated[tuple[float, ...] | None, Many] = None,
    resize: tuple[int, int] | None = None,
    trust_types: Annotated[list[str] | None, Many] = None,
    trust_pickle: Annotated[bool, Flag] = False,
    split: str = "test",
    bounds: tuple[float, float] = (0.0, 1.0),
    quantize: int | None = None,
    queries: int | None = None,
    budget: int | None = None,
    rate: float | None = None,
    batch_size: int | None = None,
    doctor: bool = True,
    device: str = "auto",
    json: Annotated[bool, Flag] = False,
) -> None:
    """Attacks a model on data and reports. A run that was stopped goes on with the same command.

    Args:
        model: A model folder, a .pt2 or TorchScript file, a safetensors file that names its architecture, a
            .skops file with an estimator, an .onnx file, package.module:factory, timm:NAME, torchvision:NAME, an
            endpoint's https://… address or the .toml file that describes it, or lenet-digits, which is built in.
        data: digits, mnist, cifar10, an .npz file, a folder of images by class, or Parquet.
        threat: What the attacker may change: linf:8/255, l2:0.5, l1:10, l0:14.5%, l0:112, l0:min. Repeats.
        attack: A name of `sapper attacks`, with options if any: pgd:steps=20, 5*pgd (restarts). Repeats.
        via: A substitute: attacks are shown this model, and what they make is submitted to MODEL, one question a case. A
            folder of `sapper steal`, or a model like MODEL; of several (repeats) their mean.
        goal: misclassification, confidence:0.5, targeted:every, targeted:random, targeted:least-likely, targeted:3,
            source-target:2->8.
        limit: Only the first so many samples.
        seed: Of all random numbers.
        out: The run folder; by default runs/MODEL-DATA-SPEC.
        weights: A safetensors file for package.module:factory.
        mean: What to subtract from each channel before the network.
        std: What to divide each channel by.
        resize: Height and width to resize to before the network.
        trust_types: Types that a .skops file may hold beside those known to be harmless.
        trust_pickle: Load a pickled estimator, running whatever code is in its file.
        split: Part of the data: test, train, or a range like train[50000:].
        bounds: Legal range of the inputs, in whose units the budgets are.
        quantize: Bits a feature: success is judged after rounding to this grid (8 for pictures).
        queries: Most questions an attack may ask about a sample.
        budget: Most rows that are sent to an endpoint, by the whole run; answers it gave before are free.
        rate: Most requests a second that are made to an endpoint.
        batch_size: Rows at once; measured by default.
        doctor: Show attacks a model that hides its gradients in a form that does not, and probe what held.
        device: cpu, cuda, cuda:1, or auto.
        json: Print the summary as JSON.
    """
    from sapper.commands import run_audit
    from sapper.spec import Spec

    spec = Spec(
        model=model, weights=str(weights) if weights else None, mean=mean, std=std, resize=resize,
        trust_types=tuple(trust_types) if trust_types else None, trust_pickle=trust_pickle or None,
        via=tuple(via) if via else None, data=data, split=split,
        bounds=bounds, limit=limit, goal=goal, threats=tuple(threat or ()), attacks=tuple(attack or ()), seed=seed,
        quantize=quantize, queries=queries, batch_size=batch_size, doctor=doctor,
    )  # fmt: skip
    run_audit(spec, out, device, budget, rate, as_json=json, console=stderr, printer=stdout)


@app.command
def train(
    model: str,
    /,
    *,
    data: str,
    out: Path,
    split: str = "train",
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    momentum: float | None = None,
    schedule: Literal["linear", "constant"] = "linear",
    seed: int = 0,
) -> None:
    """Trains an architecture into a model folder. A training that was stopped goes on with the same command.

    Args:
        model: lenet, softmax, mlp, or another module of sapper.models.
        data: As for audit.
        out: The model folder to write.
        split: What to learn from: train, or a range of it like train[:50000].
        epochs: Passes over the data; this and the next three by default as the architecture's recipe says.
        batch_size: Samples a step.
        learning_rate: Of the first step.
        momentum: Share of the last step that is kept.
        schedule: Whether the learning rate falls linearly to 0 or stays.
        seed: Of weights and order.
    """
    from sapper.models.training import train

    folder = train(
        model, data, out, split=split, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, momentum=momentum,
        schedule=schedule, seed=seed, console=stderr,
    )  # fmt: skip
    stdout.print(f"{folder}", markup=False, highlight=False, soft_wrap=True)


@app.command
def steal(
    endpoint: str,
    /,
    *,
    seed_data: str,
    budget: int | None = None,
    out: Path | None = None,
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
    rate_schedule: Literal["linear", "constant"] = "linear",
    split: str = "test",
    bounds: tuple[float, float] = (0.0, 1.0),
    quantize: int | None = None,
    weights: Path | None = None,
    mean: Annotated[tuple[float, ...] | None, Many] = None,
    std: Annotated[tuple[float, ...] | None, Many] = None,
    resize: tuple[int, int] | None = None,
    trust_types: Annotated[list[str] | None, Many] = None,
    trust_pickle: Annotated[bool, Flag] = False,
    seed: int = 0,
    at_once: int = 100,
    rate: float | None = None,
    device: str = "auto",
    json: Annotated[bool, Flag] = False,
) -> None:
    """Trains a substitute of a model that only answers, to craft on: `sapper audit ENDPOINT --via STEAL_FOLDER`.

    A theft that was stopped goes on with the same command and asks nothing twice, and one that has spent its budget with a
    larger one and the same --out.

    Args:
        endpoint: Any model, as for audit; it is asked for labels only.
        seed_data: Samples of the kind it classifies, as for audit; their own labels are not used.
        budget: Most questions in all, those about held-out samples too. Never exceeded.
        out: The steal folder; by default runs/steal-ENDPOINT-SPEC.
        architecture: Of the substitute: lenet, mlp, softmax, svm, or another module of sapper.models.
        seeds: Samples to begin with.
        held_out: Samples, those behind the seeds, on which agreement with the endpoint is measured, a question each; by
            default 1000 or what is there, at most a tenth of the budget.
        rounds: Most augmentations; each doubles the samples (100 seeds and 3 rounds are 800 questions). By default as many
            as the budget allows.
        step_size: How far new inputs are moved, in the data's units; by default a tenth of their range.
        period: The direction alternates every so many rounds; 0 is never.
        sigma: After so many rounds only some inputs, drawn at random, are moved, so that questions no longer double.
        kappa: How many these some are.
        epochs: Passes of each round's training; this and the next three by default as the architecture's recipe says.
        batch_size: Samples a step.
        learning_rate: Of the first step.
        momentum: Share of the last step that is kept.
        rate_schedule: Whether the learning rate falls linearly to nought or stays, as the papers' does.
        split: Part of the seed data: test, train, or a range like train[50000:].
        bounds: Legal range of the inputs.
        quantize: Bits a feature: inputs are rounded to this grid before they are asked about (8 for pictures).
        weights: A safetensors file for package.module:factory.
        mean: What to subtract from each channel before the endpoint's network.
        std: What to divide each channel by.
        resize: Height and width to resize to before the endpoint's network.
        trust_types: Types that a .skops file may hold beside those known to be harmless.
        trust_pickle: Load a pickled estimator, running whatever code is in its file.
        seed: Of all random numbers.
        at_once: Rows asked about at once, which are what a kill loses at most.
        rate: Most requests a second that are made to an endpoint.
        device: Of the endpoint: cpu, cuda, cuda:1, or auto.
        json: Print the rounds as JSON.
    """
    from sapper.commands import run_steal
    from sapper.theft_spec import Theft

    spec = Theft(
        endpoint=endpoint, weights=str(weights) if weights else None, mean=mean, std=std, resize=resize,
        trust_types=tuple(trust_types) if trust_types else None, trust_pickle=trust_pickle or None, seed_data=seed_data,
        split=split, bounds=bounds, budget=budget, seeds=seeds, rounds=rounds, architecture=architecture, epochs=epochs,
        batch_size=batch_size, learning_rate=learning_rate, momentum=momentum, rate_schedule=rate_schedule,
        step_size=step_size, period=period, sigma=sigma, kappa=kappa, quantize=quantize, seed=seed, held_out=held_out,
    )  # fmt: skip
    run_steal(spec, out, device, at_once, rate, as_json=json, console=stderr, printer=stdout)


@app.command
def study(
    name: str,
    /,
    *,
    scale: Literal["smoke", "paper"] = "smoke",
    data: str | None = None,
    out: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    json: Annotated[bool, Flag] = False,
) -> None:
    """Reproduces a paper, its numbers beside the measured. A study that was stopped goes on with the same command.

    Args:
        name: A name of `sapper studies`.
        scale: smoke for a quick look, paper for the paper's own size.
        data: In place of the study's own data set.
        out: The study's folder; by default runs/study-NAME-SCALE.
        seed: Of all random numbers.
        device: cpu, cuda, cuda:1, or auto.
        json: Print the outcome as JSON.
    """
    from sapper.commands import make_study

    make_study(name, scale, data, out, seed, device, as_json=json, console=stderr, printer=stdout)


@app.command
def studies() -> None:
    """Lists the studies, what they reproduce and how long they take."""
    from sapper.commands import list_studies

    list_studies(stdout)


@app.command
def report(run: Path, /) -> None:
    """Writes the HTML report of a run or a theft again.

    Args:
        run: The run folder, or the steal folder.
    """
    from sapper.report.page import write_report
    from sapper.report.theft_page import write_theft
    from sapper.theft_spec import ROUNDS

    page = write_theft(run) if (run / ROUNDS).is_file() else write_report(run)
    stdout.print(str(page), markup=False, highlight=False, soft_wrap=True)


@app.command
def doctor(run: Path, /, *, json: Annotated[bool, Flag] = False) -> None:
    """Says whether a run's figures can be trusted: each finding with what it means, its evidence and what to do.

    Args:
        run: The run folder.
        json: Print the findings as JSON.
    """
    from sapper.log import read_summary
    from sapper.meanings import explain, print_findings

    findings = explain(read_summary(run).findings)
    if json:
        from sapper.output import print_json

        print_json(findings)
        return
    print_findings(findings, stdout)


@app.command
def compare(first: Path, second: Path, /, *, json: Annotated[bool, Flag] = False) -> None:
    """Sets two runs side by side, and says where they cannot be compared. Runs --via substitutes are compared with such only.

    Args:
        first: A run folder.
        second: Another.
        json: Print the comparison as JSON.
    """
    from sapper.commands import run_compare

    run_compare(first, second, as_json=json, printer=stdout)


@app.command
def cite(run: Path, /) -> None:
    """Prints BibTeX of exactly the methods a run used.

    Args:
        run: The run folder.
    """
    from sapper.errors import RunError
    from sapper.log import read_environment, read_spec

    read_spec(run)
    used = read_environment(run).get("citations")
    if used is None:
        raise RunError(f"{run} has not begun, so nothing is known to cite: run its command again.")
    for entry in used:
        sys.stdout.write(entry["bibtex"] + "\n")


@app.command
def attacks(
    *, access: Literal["labels", "scores", "gradients"] = "gradients", json: Annotated[bool, Flag] = False
) -> None:
    """Lists the attacks.

    Args:
        access: Only those that a model is enough for which gives so much.
        json: Print them as JSON.
    """
    from sapper.listings import list_attacks

    list_attacks(access, as_json=json, printer=stdout)


@app.command
def show(name: str, /, *, json: Annotated[bool, Flag] = False) -> None:
    """Shows one attack: its options, norms, access and paper.

    Args:
        name: A name of `sapper attacks`.
        json: Print it as JSON.
    """
    from sapper.listings import show_attack

    show_attack(name, as_json=json, printer=stdout)


@app.command
def threats() -> None:
    """Shows the taxonomy of threats: goals and capabilities, and which attacks serve each."""
    from sapper.listings import show_taxonomy

    show_taxonomy(stdout)


def main(arguments: Sequence[str] | None = None) -> None:
    """The program. Leaves with status 2 and one clear message for what the user can mend, 130 after Ctrl-C."""
    # Read when torch is loaded. Threads that spin while they wait steal the cores that another process works on.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except (SapperError, CycloptsError) as error:
        stderr.print(Text.assemble(("error:", "bold red"), " ", str(error).strip()), soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        stderr.print("stopped; the same command goes on where it was.")
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        sys.stderr.close()
        sys.exit(141)
