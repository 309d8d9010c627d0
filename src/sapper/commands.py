"""What the commands do once their options are read: load, run, print."""

import hashlib
import shlex
import sys
from importlib import import_module
from pathlib import Path

import torch
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table
from torch import nn

from sapper import catalogue
from sapper.claims import Scale
from sapper.data.dataset import Data
from sapper.data.loading import load_data
from sapper.endpoints.endpoint import Terms
from sapper.endpoints.settings import is_reference, read_settings
from sapper.ensembles import ensemble
from sapper.errors import RunError, UsageError, require_positive
from sapper.foreign import access
from sapper.goal import GoalSpec
from sapper.lab import Lab
from sapper.learners import learner_of
from sapper.log import Summary
from sapper.models.loading import load_model
from sapper.models.model import Model
from sapper.models.programs import brief
from sapper.models.remote import endpoint_of
from sapper.output import print_json
from sapper.plan import jobs, standard
from sapper.report import study_pages
from sapper.report.page import write_report
from sapper.report.theft_page import write_theft
from sapper.run import audit
from sapper.spec import Spec
from sapper.study_run import find, run_study, studies
from sapper.theft import pool, rob
from sapper.theft_spec import SUBSTITUTE, Spoils, Theft, begun, substitute_in


def run_audit(
    spec: Spec, out: Path | None, device: str, budget: int | None, rate: float | None, *, as_json: bool, console: Console,
    printer: Console,
) -> None:  # fmt: skip
    _check_early(spec)
    where = _device(device)
    console.print(f"loading {spec.data} and {spec.model}", style="dim", markup=False, highlight=False)
    data = load_data(spec.data, split=spec.split, limit=spec.limit, bounds=spec.bounds)
    terms = Terms(replace(spec, data_digest=data.digest()).digest(), budget, rate)
    model = _loaded(spec.model, spec, data, terms)
    if endpoint_of(model.module) is None and (budget or rate):
        raise UsageError(
            f"--budget and --rate are for endpoints, {spec.model} is none: --queries limits a case's questions."
        )
    spec, via = _substitutes(spec)
    given, made = (access(model.module), learner_of(model.module)) if via is None else (access(via), learner_of(via))
    threats, attacks = standard(data, list(spec.threats), list(spec.attacks), given, made, via=via is not None)
    spec = replace(
        spec, threats=tuple(threats), attacks=tuple(attacks), model_digest=model.digest, data_digest=data.digest()
    )
    run, summary = audit(spec, model, data, out, where, console, via)
    page = write_report(run)
    if as_json:
        sys.stdout.write((run / "summary.json").read_text(encoding="utf-8"))
        return
    print_summary(summary, printer)
    printer.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)


def _substitutes(spec: Spec) -> tuple[Spec, nn.Module | None]:
    """What the attacks are shown in place of the model, and the spec that says which it is."""
    if not spec.via:
        return spec, None
    found = [load_model(substitute_in(reference)) for reference in spec.via]
    known = hashlib.sha256("".join(one.digest for one in found).encode()).hexdigest()
    spec = replace(spec, via=tuple(one.reference for one in found), via_digest=known)
    return spec, found[0].module if len(found) == 1 else ensemble([one.module for one in found])


def print_summary(summary: Summary, printer: Console) -> None:
    """The verdict as a table, and every finding that is not in order."""
    table = Table(
        title=f"{summary.model} on {summary.data}: clean accuracy {summary.clean_accuracy:.1%}", title_justify="left"
    )
    for name in ("threat", "attack", "success", "robust accuracy", "95 %", "median distance", "cases/s"):
        table.add_column(name, justify="left" if name in ("threat", "attack") else "right")
    for result in summary.results:
        table.add_row(
            result.threat, result.attack, _percent(result.success_rate), _percent(result.robust_accuracy),
            _interval(result.ci95), _number(result.median_distance), _number(result.cases_per_second),
        )  # fmt: skip
    table.add_section()
    for worst in summary.worst_case:
        table.add_row(
            worst.threat, "[bold]worst case", "", f"[bold]{_percent(worst.robust_accuracy)}", _interval(worst.ci95)
        )
    printer.print(table)
    for finding in summary.findings:
        if finding.verdict != "ok":
            printer.print(f"{finding.verdict}: {finding.check}: {finding.evidence}; {finding.remedy}.", markup=False)


def run_compare(first: Path, second: Path, *, as_json: bool, printer: Console) -> None:
    compare = import_module("sapper.compare")
    comparison = compare.compare(first, second)
    if as_json:
        print_json(comparison)
    elif comparison.refused:
        raise RunError(f"{first} and {second} cannot be compared: {comparison.refused}.")
    else:
        compare.print_comparison(comparison, printer)


def run_steal(
    spec: Theft, out: Path | None, device: str, at_once: int, rate: float | None, *, as_json: bool, console: Console,
    printer: Console,
) -> None:  # fmt: skip
    spec.check(sys.maxsize)  # what can be refused before anything is loaded
    _check_reference(spec.endpoint)
    console.print(f"loading {spec.seed_data} and {spec.endpoint}", style="dim", markup=False, highlight=False)
    data = load_data(spec.seed_data, split=spec.split, bounds=spec.bounds)
    spec, data = replace(spec, data_digest=data.digest()), pool(spec, data)
    spec = spec.settled(len(data), data.x[0].numel(), begun(out) if out else None)
    spec.check(len(data))
    first = Data(data.name, data.x[: spec.seeds], data.y[: spec.seeds], data.classes, data.bounds)  # asked in any case
    terms = Terms(replace(spec, budget=None, rounds=None, held_out=None).digest(), rate=rate)
    model = _loaded(spec.endpoint, spec, first, terms)
    if endpoint_of(model.module) is None and rate:
        raise UsageError(f"--rate is for endpoints, {spec.endpoint} is none.")
    spec = replace(spec, endpoint_digest=model.digest)
    folder = out or Path("runs") / f"steal-{model.name}-{spec.digest()}"
    _, spoils = rob(spec, model.module.to(_device(device)), data, folder, console, at_once=at_once)
    page = write_theft(folder)
    if as_json:
        print_json(spoils)
        return
    print_spoils(spoils, printer)
    printer.print(f"substitute: {folder / SUBSTITUTE}\nreport: {page}", markup=False, highlight=False, soft_wrap=True)


def print_spoils(spoils: Spoils, printer: Console) -> None:
    """The rounds as a table, and what was asked."""
    table = Table(title=f"{spoils.architecture} in place of {spoils.endpoint}", title_justify="left")
    for name in ("round", "new questions", "samples", "queries in all", "agreement", "95 %"):
        table.add_column(name, justify="right")
    for one in spoils.rounds:
        numbers = map(str, (one.number, one.new, one.samples, one.queries))
        table.add_row(*numbers, _percent(one.agreement), _interval(one.ci95))
    printer.print(table)
    asked = f"{spoils.training_queries} questions to learn from, {spoils.held_out_queries} to measure agreement"
    printer.print(f"{asked}: {spoils.queries}; {spoils.ended}.", highlight=False)


def make_study(
    name: str, scale: Scale, data: str | None, out: Path | None, seed: int, device: str, *, as_json: bool,
    console: Console, printer: Console,
) -> None:  # fmt: skip
    study = find(name)
    where = out or Path("runs") / f"study-{name}-{scale}"
    words = ["sapper", "study", name, "--scale", scale, *(["--data", data] if data else []), "--seed", str(seed)]
    if not (where / "study.json").exists():
        console.print(f"{study.title}: {study.takes[scale]}", highlight=False)
    lab = Lab(out=where, scale=scale, data=data or study.data, seed=seed, device=_device(device), console=console)
    outcome = run_study(name, lab, shlex.join(words))
    page, markdown = study_pages.write_study(where)
    if as_json:
        sys.stdout.write((where / "study.json").read_text(encoding="utf-8"))
        return
    study_pages.print_outcome(outcome, printer)
    printer.print(f"report: {page}\nmarkdown: {markdown}", highlight=False, soft_wrap=True)


def list_studies(printer: Console) -> None:
    table = Table("name", "paper", "reproduces", "data", "smoke", "paper's size")
    for name, study in studies().items():
        by = f"{study.paper.authors.split(',')[0]} {study.paper.year}"
        table.add_row(name, by, study.reproduces, study.data, study.takes["smoke"], study.takes["paper"])
    printer.print(table)


def _check_early(spec: Spec) -> None:
    """What can be refused before anything is loaded."""
    _check_reference(spec.model)
    GoalSpec.parse(spec.goal)
    for name in ("limit", "quantize", "queries", "batch_size"):
        require_positive(name.replace("_", "-"), getattr(spec, name))
    if spec.quantize is not None and spec.quantize > 16:
        raise UsageError(f"expected --quantize from 1 to 16 bits, got {spec.quantize}.")
    if not 0 <= spec.seed < 1 << 63:
        raise UsageError(f"expected --seed from 0 to 2^63 - 1, got {spec.seed}.")
    if spec.via and spec.queries:
        raise UsageError("with --via each case is one question to the model: leave out --queries, or lower --limit.")
    lower, upper = spec.bounds
    if not lower < upper:
        raise UsageError(f"expected --bounds LOWER UPPER with LOWER below UPPER, got {lower:g} {upper:g}.")
    if spec.threats and spec.attacks:
        jobs(spec)
    for attack in spec.attacks:
        catalogue.attack(attack)


def _check_reference(reference: str) -> None:
    """An address that holds a token is refused before it is shown."""
    if is_reference(reference):
        read_settings(reference)


def _loaded(reference: str, spec: Spec | Theft, like: Data, terms: Terms) -> Model:
    """The model of a spec, with the preprocessing that it asks for."""
    return load_model(
        reference,
        weights=Path(spec.weights) if spec.weights else None,
        mean=spec.mean,
        std=spec.std,
        resize=spec.resize,
        trust_types=spec.trust_types or (),
        trust_pickle=spec.trust_pickle or False,
        like=like,
        terms=terms,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"expected a device like cpu, cuda or cuda:1, got '{name}'.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("this machine or this build of torch has no CUDA; use --device cpu.")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"expected a device of this machine, got '{name}': {brief(error)}; use --device cpu."
        ) from error
    return device


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _interval(value: tuple[float, float] | None) -> str:
    return "–" if value is None else f"{value[0]:.1%} to {value[1]:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
