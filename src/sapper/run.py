"""From a spec to a run folder: jobs (an attack under a threat), each in shards of some thousand cases.

A shard is the unit of work and of durability. What is there is done, unless some of its cases could not be run; what is
not is computed, from nothing but the spec.
So a run that was stopped at any moment goes on with the same command, and ends with the same rows.
"""

import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import torch
from rich.console import Console
from torch import Tensor, nn

from sapper import catalogue, disk, log, noise, rows
from sapper.adversarial_distance import adversarial_distance
from sapper.checks import check_goal, check_options
from sapper.data.dataset import Data
from sapper.environment import describe, told
from sapper.errors import ModelError, RunError, UsageError
from sapper.foreign import access
from sapper.goal import GoalSpec, Untargeted
from sapper.learners import learner_of
from sapper.learning import check_lesson, learned
from sapper.models.model import Model
from sapper.models.remote import endpoint_of, write_queries
from sapper.oracle import TorchOracle, frozen
from sapper.plan import Job, jobs
from sapper.preflight import Preflight, clean_inputs, inspect
from sapper.probes import View, again, probe
from sapper.progress import CaseProgress
from sapper.remedies import Remedies
from sapper.rows import Cases
from sapper.scheduler import craft_cases, measure_batch, usual_batch
from sapper.spec import Spec, differences, from_plain
from sapper.summary import summarise
from sapper.tensors import Batch, Labels, take
from sapper.theft_spec import agreement_of

_SHARD_CASES = 2048
_SHARD_BYTES = 256 << 20
_SUBMITTED = 256  # cases a shard where each is a question to somebody's endpoint, which a kill must not lose many of


def audit(
    spec: Spec,
    model: Model,
    data: Data,
    out: Path | None,
    device: torch.device,
    console: Console,
    via: nn.Module | None = None,
) -> tuple[Path, log.Summary]:
    """Runs what the spec asks, or what is left of it, and writes the run folder.

    With `via`, a substitute, the attacks are shown that, and the model is asked about each sample once: as it is, and about
    what came of each case.

    Returns:
        The folder and its summary.

    Raises:
        SapperError: Anything the user can mend; nothing is written before the model and the data have been checked.
    """
    work = jobs(spec)
    given = access(model.module if via is None else via)
    check_goal(GoalSpec.parse(spec.goal), access(model.module))
    for job in work:
        check_options(job.attack, job.threat, data.shape)
        catalogue.check_access(job.attack, job.threat, given, learner_of(model.module))
        check_lesson(job.attack, spec.goal)
    module = model.module.to(device)
    x = clean_inputs(data, work[0].threat, module, device)
    may_heal = _may_heal(spec)
    run = out or Path("runs") / f"{model.name}-{data.name}-{spec.digest()}"
    endpoint = endpoint_of(module)
    if endpoint:
        endpoint.runs_in(str(run.resolve()), is_there=(run / "spec.toml").exists())
    before = inspect(module, data, x, spec.batch_size or usual_batch(x), heal=may_heal, frugal=via is not None,
                     averaged=may_heal and spec.queries is None)  # fmt: skip
    shown = None if via is None else _substitute(via.to(device, x.dtype), x, before)
    cases = _cases(spec, data.y.to(device), before)
    _open(run, spec)
    if endpoint:
        endpoint.runs_in(str(run.resolve()), is_there=True)
    with frozen(module):
        view = _view(run, spec, model, data, work, module, shown, x, before.remedies)
        _write_samples(run, data, x, before)
        work = [
            replace(job, attack=learned(run, job.attack, job.threat, view.shown, spec, data, device)) for job in work
        ]
        with CaseProgress(console, endpoint and endpoint.told) as progress:
            news = [_run_job(run, job, view, x, cases, before, spec, progress) for job in work]
            if given == "gradients" and not view.transfer and any(job.threat.p == 0 for job in work):
                _write_vulnerability(run, view, x, cases, progress)
            if spec.doctor and not view.transfer and not (endpoint and endpoint.is_spent):
                plain = [(job.attack, job.threat, job.folder) for job in work]
                if any(news) or not (run / "doctor.json").exists():
                    probes = probe(run, plain, view, x, cases, spec, progress)
                    if not (
                        endpoint and endpoint.is_spent
                    ):  # else what a probe did not find may be for lack of answers
                        disk.write_json(run / "doctor.json", probes)
                more = [Job(attack, threat) for attack, threat in again(run, plain, log.read_probes(run), view)]
                for job in more:
                    _run_job(run, job, view, x, cases, before, spec, progress)
                work += more
    if endpoint:
        write_queries(run, endpoint)
    summary = summarise(run, model.name, data.name, spec.goal, [(str(j.attack), str(j.threat), j.folder) for j in work],
                        spec.queries)  # fmt: skip
    disk.write_json(run / "summary.json", summary)
    return run, summary


def _cases(spec: Spec, label: Labels, before: Preflight) -> Cases:
    keys = noise.keys(spec.seed, torch.arange(len(label), device=label.device))
    sample, goal = GoalSpec.parse(spec.goal).cases(label, before.logits, keys)
    if not len(sample):
        raise UsageError(f"no sample of the data fits the goal {spec.goal}: choose another, or raise --limit.")
    target = goal.targets()
    key = keys[sample] if target is None else noise.mix(keys[sample] + target + 1)
    return Cases(sample, goal, key)


def _open(run: Path, spec: Spec) -> None:
    """Begins the folder, or goes on in one of the same spec."""
    if not (run / "spec.toml").exists():
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            raise RunError(f"{run} is there and is no run folder: give another --out, or empty it.")
        disk.write_toml(run / "spec.toml", spec.plain())
        return
    disk.sweep(run)
    there = from_plain(log.read_spec(run))
    if there != spec:
        raise RunError(
            f"{run} holds a run of another spec: give another --out, or the same options; "
            f"{'; '.join(differences(there, spec))}."
        )


def _may_heal(spec: Spec) -> bool:
    """Not for goals that are about the outputs themselves."""
    return spec.doctor and not spec.via and not spec.goal.strip().lower().startswith("confidence")


def _view(
    run: Path,
    spec: Spec,
    model: Model,
    data: Data,
    work: list[Job],
    module: nn.Module,
    substitute: nn.Module | None,
    x: Batch,
    remedies: Remedies,
) -> View:
    """The model as it is attacked and judged. Writes environment.json once, with what all of the run's shards use, and anew
    where its command is another: a budget may have been raised.
    """
    transfer = substitute is not None
    shown = module if substitute is None else substitute
    known = log.read_environment(run)
    remedies = msgspec.convert(known.get("remedies", {}), Remedies) if known else remedies
    healed = TorchOracle(remedies.applied(shown))
    if not known:
        size = spec.batch_size or measure_batch(healed, x, Untargeted(data.y.to(x.device)))
        known = describe(spec, model, data, x, [job.attack for job in work], size)
        known["remedies"] = msgspec.to_builtins(remedies)
        if spec.via:
            known["via"] = [{"reference": one, "agreement": agreement_of(Path(one))} for one in spec.via]
    if (now := {**known, "command": told(spec, model)}) != log.read_environment(run):
        disk.write_json(run / "environment.json", now)
    judge = TorchOracle(Remedies(calls=remedies.calls).applied(module))
    return View(judge, healed, remedies.calls, remedies.lead, known["batch_size"], transfer)


def _substitute(via: nn.Module, x: Batch, before: Preflight) -> nn.Module:
    """Checked: it takes the samples, and has the model's classes."""
    with frozen(via):
        classes = TorchOracle(via).logits(x[:1]).shape[1]
    if classes != before.logits.shape[1]:
        raise ModelError(
            f"expected substitutes with the model's {before.logits.shape[1]} classes, got {classes}: give one that was "
            "trained on its answers."
        )
    return via.eval().requires_grad_(requires_grad=False)


def _write_samples(run: Path, data: Data, x: Batch, before: Preflight) -> None:
    if all((run / name).exists() for name in ("samples.parquet", "samples.safetensors", "preflight.json")):
        return
    table = pl.DataFrame(
        {
            "sample": range(len(data)),
            "label": data.y.tolist(),
            "clean_prediction": before.predictions.tolist(),
            "clean_confidence": rows.known(before.confidence),
        },
        schema=log.SAMPLE,
    )
    disk.write_table(run / "samples.parquet", table)
    disk.write_tensors(run / "samples.safetensors", {"x": _array(x)})
    disk.write_json(run / "preflight.json", before.findings)


def _array(x: Batch) -> np.ndarray:
    """For the disk; numpy has no bfloat16, which float32 holds exactly."""
    return (x.float() if x.dtype == torch.bfloat16 else x).cpu().numpy()


def _write_vulnerability(run: Path, view: View, x: Batch, cases: Cases, progress: CaseProgress) -> None:
    """What the saliency maps of the clean samples foretell, where the goal names targets."""
    path, target = run / "vulnerability.parquet", cases.goal.targets()
    if target is None or path.exists():
        return
    progress.begin("adversarial distance", len(cases.sample), found=False)
    try:
        single, pairs = adversarial_distance(
            view.model, x, cases.sample, cases.goal, view.size, lambda done: progress.step(done, 0)
        )
    except (ModelError, RuntimeError):  # no derivative: the attacks' rows say so
        return
    columns = {
        "sample": cases.sample.tolist(),
        "label": cases.goal.label.tolist(),
        "target": target.tolist(),
        "single": single.tolist(),
        "pairs": [None] * len(single) if pairs is None else pairs.tolist(),
    }
    disk.write_table(path, pl.DataFrame(columns, schema=log.VULNERABILITY))


def _run_job(
    run: Path, job: Job, view: View, x: Batch, cases: Cases, before: Preflight, spec: Spec, progress: CaseProgress
) -> bool:
    """Computes the shards that are not there; says whether there were any."""
    total, news = len(cases.sample), False
    used = log.read_usage(run)
    was_cut = used is not None and used.is_spent and job.threat.eps is None  # what was found may not be the nearest yet
    most = _SUBMITTED if view.transfer else _SHARD_CASES
    rows_each = max(1, min(most, _SHARD_BYTES // (x[0].numel() * x.element_size())))
    progress.begin(f"{job.attack} {job.threat}", total)
    for number in range(math.ceil(total / rows_each)):
        shard = run / "shards" / job.folder / f"{number:05}.parquet"
        part = take(cases, slice(number * rows_each, (number + 1) * rows_each))
        if not _done(shard) or was_cut:
            news = True
            table, x_adv = _run_shard(job, view, x, part, before, spec, progress)
            disk.write_tensors(shard.with_suffix(".safetensors"), {"x_adv": _array(x_adv)})
            disk.write_table(shard, table)
        progress.finish_shard(len(part.sample), int(disk.read_table(shard)["found"].sum()))
    return news


def _done(shard: Path) -> bool:
    """Whether a shard is there with its inputs and without an error, whose cause may be mended by now."""
    both = shard.exists() and shard.with_suffix(".safetensors").exists()
    return both and not disk.read_table(shard)["error"].is_not_null().any()


def _run_shard(
    job: Job, view: View, x: Batch, part: Cases, before: Preflight, spec: Spec, progress: CaseProgress
) -> tuple[pl.DataFrame, Tensor]:
    clean, nothing = x[part.sample], [None] * len(part.sample)
    try:
        crafted = craft_cases(
            view.shown, job.attack, clean, part.goal, job.threat, part.key,
            queries=spec.queries, batch_size=view.size, progress=progress.step, judge=view.model, lead=view.lead,
            transfer=view.transfer,
        )  # fmt: skip
        stored = (
            nothing if view.transfer else rows.survives(view.model, job.threat, clean, part.goal, crafted, view.size)
        )
        fooled = rows.reaches(view.shown, part.goal, crafted.x_adv, view.size) if view.transfer else nothing
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"{x.device} has no memory for {view.size} rows at once: give a --batch-size below, and another --out."
        ) from error
    except (ModelError, RuntimeError) as error:  # RuntimeError: how torch says that an operation has no derivative
        return rows.table(part, before, None, clean, nothing, str(error).partition("\n")[0]), clean
    crafted = rows.counted(crafted, view.calls, submitted=view.transfer)
    endpoint = endpoint_of(view.model.module)
    error = "the model answered with nan or infinity, or was asked about such"
    if endpoint and endpoint.is_spent:
        error = f"the budget of {endpoint.terms.budget} rows was spent before anything was found"
    return rows.table(part, before, crafted, clean, stored, error, fooled), crafted.x_adv
