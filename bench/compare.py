"""Sapper beside ART, Foolbox, torchattacks and CleverHans, on the same model, samples and budgets."""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import budgets
import labels
import minimal
import networks
import scores
import tables
import torch
from contenders import ART_JSMA, PGD_CONTENDERS, SAPPER_JSMA, SAPPER_ROOM_JSMA, TORCHATTACKS_JSMA
from judge import Budget, Task
from minimal import NORMS
from race import Entry, race, small
from rich.console import Console
from torch import nn

from sapper.data.loading import load_data

HERE = Path(__file__).parent
CASES = ("jsma", "pgd", "pgd-robust", "sizes", "memory", "minimal", "minimal-robust", "budgets", "budgets-robust",
         "scores", "labels")  # fmt: skip
FROM_FOLDER = {
    "pgd-robust": "robust_models",
    "memory": "imagenet",
    "minimal-robust": "robust_models",
    "budgets-robust": "robust_models",
}
"""What a case needs of $SAPPER_DATA; MNIST is downloaded where it is not there."""


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    rounds: int
    jsma_images: tuple[int, int, int]
    """For torchattacks, ART and Sapper alone; Sapper runs on the first two sets as well."""
    pgd_images: int
    pgd_steps: int
    photo_threat: str
    sizes: tuple[tuple[int, int], ...] = ((1, 28), (3, 32), (3, 64), (3, 224))
    """Colours and side of the inputs whose size is varied."""
    minimal_images: int = 100
    minimal_steps: int | None = None
    """None: as many as each race says."""
    label_images: int = 20
    budget_steps: int | None = None
    """None: as many as each race says."""
    score_images: int = 20
    score_queries: int | None = None
    """None: as many as each race says."""


FULL = Scale(rounds=3, jsma_images=(10, 50, 200), pgd_images=1000, pgd_steps=40, photo_threat="l0:1%")
_IMAGES = ("pgd_images", "minimal_images", "label_images", "score_images")
SMOKE = Scale(rounds=1, jsma_images=(1, 2, 4), pgd_images=64, pgd_steps=5, photo_threat="l0:10", sizes=((1, 28),),
              minimal_images=4, minimal_steps=10, label_images=1, budget_steps=10, score_images=2,
              score_queries=600)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """A case's part of the Markdown, of the terminal and of the JSON."""

    name: str
    title: str
    lines: list[dict[str, str]]
    note: str
    record: dict[str, object]


def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(arguments)
    console = Console()
    scale = SMOKE if options.smoke else FULL
    if options.samples:
        scale = replace(scale, **dict.fromkeys(_IMAGES, options.samples))
    where = environment()
    stem = "-".join(["smoke" if options.smoke else "benchmark", *(options.case or [])])
    outcomes, paths = [], []
    for name in options.case or CASES:
        console.rule(name)
        if name in FROM_FOLDER and not networks.data_folder(FROM_FOLDER[name]).is_dir():
            console.print(f"skipped: set SAPPER_DATA to a folder that has {FROM_FOLDER[name]}/")
            continue
        for outcome in run_case(name, scale, options, lambda line: console.print(f"[dim]{line}")):
            outcomes.append(outcome)
            console.print(tables.terminal(outcome.title, outcome.lines), outcome.note, sep="\n")
            paths = write(outcomes, where, options.out, stem)  # after each: a run takes hours
    for path in paths:
        console.print(f"written: {path}")


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", choices=CASES, help="may be given again; default: all")
    parser.add_argument("--samples", type=int, help="images, but for JSMA; default: 20 to 1000, as a case says")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, under a minute: does it run?")
    parser.add_argument(
        "--race", action="append", help="of the minimal and budget cases, scores and labels only these, such as DDN"
    )
    parser.add_argument("--lenet", type=Path, default=HERE / ".cache/lenet-mnist", help="model folder; made if absent")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    return parser.parse_args(arguments)


def run_case(name: str, scale: Scale, options: argparse.Namespace, tell: Callable[[str], None]) -> Iterator[Outcome]:
    robust = name.endswith("-robust")
    what = "the robust cnn_a_adv" if robust else "LeNet"
    match name.removesuffix("-robust"):
        case "sizes":
            yield sizes(scale, tell)
        case "memory":
            yield memory(scale.photo_threat)
        case case:
            model = networks.robust_cnn() if robust else networks.lenet(options.lenet)
            if case == "jsma":
                yield jsma(model, scale, tell)
            elif case == "pgd":
                yield pgd(name, what, model, scale, tell)
            elif case == "minimal":
                yield from minimal_distances(name, what, model, scale, options.race, tell)
            elif case == "scores":
                yield from by_scores(name, what, model, scale, options.race, tell)
            elif case == "labels":
                yield from label_distances(name, what, model, scale, options.race, tell)
            else:
                yield from within_budgets(name, what, model, scale, options.race, tell)


def jsma(model: nn.Module, scale: Scale, tell: Callable[[str], None]) -> Outcome:
    images = max(scale.jsma_images)
    data = load_data("mnist", split="test", limit=images)
    targets = torch.stack([torch.tensor([target for target in range(10) if target != label]) for label in data.y])
    budget = Budget(norm=0, size=112, steps=56, step_size=1.0)
    task = Task(data.x.repeat_interleave(9, dim=0), data.y.repeat_interleave(9), targets.flatten(), budget)
    few, some, many = (9 * count for count in scale.jsma_images)
    entries = [
        Entry(SAPPER_JSMA, few),
        Entry(SAPPER_ROOM_JSMA, few),
        Entry(TORCHATTACKS_JSMA, few),
        Entry(SAPPER_JSMA, some),
        Entry(SAPPER_ROOM_JSMA, some),
        Entry(ART_JSMA, some),
        Entry(SAPPER_JSMA, many),
    ]
    title = (
        f"JSMA, LeNet, the first {images} MNIST test images x 9 targets, theta +1, gamma 14.5 % (56 steps, 112 pixels)"
    )
    trial = small(task, min(some, 256), steps=3)
    return raced("jsma", title, model, task, trial, entries, scale.rounds, tell)


def pgd(name: str, what: str, model: nn.Module, scale: Scale, tell: Callable[[str], None]) -> Outcome:
    data = load_data("mnist", split="test", limit=scale.pgd_images)
    task = Task(data.x, data.y, None, Budget(norm=math.inf, size=0.3, steps=scale.pgd_steps, step_size=0.01))
    entries = [Entry(contender, len(task)) for contender in PGD_CONTENDERS]
    title = f"PGD-{scale.pgd_steps}, {what}, the first {len(task)} MNIST test images, linf 0.3, step 0.01, random start"
    return raced(name, title, model, task, small(task, len(task), steps=3), entries, scale.rounds, tell)


def chosen(races: Sequence[Any], only: list[str] | None) -> list[Any]:
    """Those that `--race` names; without it, all."""
    return [one for one in races if not only or one.name in only]


def minimal_distances(
    name: str, what: str, model: nn.Module, scale: Scale, only: list[str] | None, tell: Callable[[str], None]
) -> Iterator[Outcome]:
    data = load_data("mnist", split="test", limit=scale.minimal_images)
    for one in chosen(minimal.RACES, only):
        steps = scale.minimal_steps or one.steps
        task = Task(data.x, data.y, None, Budget(norm=one.norm, size=math.inf, steps=steps))
        norm = minimal.NORMS[one.norm]
        title = f"{one.name} in {norm}, {what}, the first {len(task)} MNIST test images, {steps} steps"
        few = [Entry(contender, min(len(task), contender.most_samples)) for contender in one.contenders]
        slow = sorted({entry.samples for entry in few} - {len(task)})  # Sapper runs on those of the slow ones too
        entries = [*few, *(Entry(one.contenders[0], count) for count in slow)]
        trial = small(task, len(task), steps=10)  # the fewest that all of them take
        yield raced(f"{name}-{one.name}-{norm}", title, model, task, trial, entries, min(2, scale.rounds), tell)


def by_scores(
    name: str, what: str, model: nn.Module, scale: Scale, only: list[str] | None, tell: Callable[[str], None]
) -> Iterator[Outcome]:
    data = load_data("mnist", split="test", limit=scale.score_images)
    for one in chosen(scores.RACES, only):
        queries = scale.score_queries or one.queries
        targets = (data.y + 1) % 10 if one.targeted else None
        task = Task(data.x, data.y, targets, Budget(norm=one.norm, size=one.size, steps=queries))
        title = f"{one.name}, {one.threat}, {what}, the first {len(task)} MNIST test images, {queries} questions each"
        entries = [Entry(contender, len(task)) for contender in one.contenders]
        trial = small(task, 2, steps=520)
        yield raced(
            f"{name}-{one.name}-{NORMS[one.norm]}", title, model, task, trial, entries, min(2, scale.rounds), tell
        )


def label_distances(
    name: str, what: str, model: nn.Module, scale: Scale, only: list[str] | None, tell: Callable[[str], None]
) -> Iterator[Outcome]:
    data = load_data("mnist", split="test", limit=scale.label_images)
    for one in chosen(labels.RACES, only):
        task = Task(data.x, data.y, None, Budget(norm=one.norm, size=math.inf, steps=one.steps))
        norm = minimal.NORMS[one.norm]
        title = f"{one.name} in {norm}, {what}, the first {len(task)} MNIST test images, {one.steps} questions each"
        entries = [Entry(contender, len(task)) for contender in one.contenders]
        trial = small(task, 1, steps=1000)  # ART's GeoDA takes no fewer
        name_of_race = f"{name}-{one.name}-{norm}-{one.steps}"
        yield raced(name_of_race, title, model, task, trial, entries, min(2, scale.rounds), tell)


def within_budgets(
    name: str, what: str, model: nn.Module, scale: Scale, only: list[str] | None, tell: Callable[[str], None]
) -> Iterator[Outcome]:
    data = load_data("mnist", split="test", limit=scale.minimal_images)
    for one in chosen(budgets.RACES, only):
        steps, norm = scale.budget_steps or one.steps, NORMS[one.norm]
        for size in one.robust_sizes if name.endswith("-robust") else one.sizes:
            task = Task(data.x, data.y, None, Budget(norm=one.norm, size=size, steps=steps))
            title = f"{one.name}, {what}, the first {len(task)} MNIST test images, {norm} {size}, {steps} steps"
            entries = [Entry(contender, len(task)) for contender in one.contenders]
            trial = small(task, min(32, len(task)), steps=min(10, steps))
            yield raced(
                f"{name}-{one.name}-{norm}-{size}", title, model, task, trial, entries, min(2, scale.rounds), tell
            )


def raced(
    name: str,
    title: str,
    model: nn.Module,
    task: Task,
    trial: Task,
    entries: Sequence[Entry],
    rounds: int,
    tell: Callable[[str], None],
) -> Outcome:
    results = race(model, task, trial, entries, rounds, tell)
    rows = tables.rows(results, task)
    lines = [tables.cells(row, task) for row in rows]
    records = [tables.record(row, result) for row, result in zip(rows, results, strict=True)]
    return Outcome(name, title, lines, tables.floor_note(rows, results), {"title": title, "rows": records})


def sizes(scale: Scale, tell: Callable[[str], None]) -> Outcome:
    points, lines = [], []
    for channels, side in scale.sizes:
        both = [in_own_process("sizes.py", library, channels, side) for library in ("sapper", "torchattacks")]
        points += both
        tell(f"{side} x {side} x {channels}: {both}")
        lines.append({"input": f"{side} x {side} x {channels}", "features": f"{both[0]['features']}"})
        for point in both:
            seconds, added = point["seconds"], point["added_mib"]
            name = point["library"].replace("sapper", "Sapper")
            lines[-1][f"{name}, ms an iteration"] = "out of memory" if seconds is None else f"{1e3 * seconds:.3g}"
            lines[-1][f"{name}, memory"] = "over 16 GiB" if added is None else f"{added:.0f} MiB"
    note = (
        "One sample, eight iterations, a small random network; the memory is what the attack added to the peak of its "
        "process. Medians of three."
    )
    return Outcome("sizes", "JSMA and the size of the input", lines, note, {"points": points})


def in_own_process(program: str, *arguments: object) -> dict[str, Any]:
    """What a program of this folder prints as JSON."""
    command = [sys.executable, HERE / program, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def memory(threat: str) -> Outcome:
    peak = in_own_process("memory.py", threat)
    line = {
        "threat": peak["threat"],
        "found": "yes" if peak["found"] else "no",
        "features changed": f"{peak['changed']} of {peak['features']}",
        "seconds": f"{peak['seconds']:.1f}",
        "peak before the attack": f"{peak['before_mib']:.0f} MiB",
        "peak": f"{peak['peak_mib']:.0f} MiB",
    }
    note = f"A matrix of all pairs of features, as torchattacks builds, would take {peak['pair_matrix_gib']:.0f} GiB."
    return Outcome("memory", f"Memory: JSMA, MobileNetV2, one photo of 224 x 224 ({peak['photo']})", [line], note, peak)


def write(outcomes: Sequence[Outcome], where: dict[str, object], folder: Path, stem: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    heading = (
        f"# Benchmark\n\n{where['date']}, {where['cpu']}, {where['threads']} threads, torch {where['torch']}, "
        f"load average {where['load_average']:.1f} at the start. Written by `bench/run`.\n"
    )
    texts = [heading] + [f"{tables.markdown(one.title, one.lines)}\n{one.note}\n" for one in outcomes]
    report = {"environment": where, "cases": {one.name: one.record for one in outcomes}}
    paths = [folder / f"{stem}.md", folder / f"{stem}.json"]
    paths[0].write_text("\n".join(texts))
    paths[1].write_text(json.dumps(report, indent=1) + "\n")
    return paths


def environment() -> dict[str, object]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": version("torch"),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "the default"),
        "load_average": os.getloadavg()[0],
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
