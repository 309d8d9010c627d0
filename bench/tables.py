"""From measurements to rows, and from rows to Markdown, JSON and the terminal."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter

from judge import Task
from race import Measurement, Result, paired_ratio
from rich.table import Table

TERMINAL_COLUMNS = 7


@dataclass(frozen=True)
class Row:
    """One contender's line; everything is the median over the rounds, but for `illegal`, the most."""

    library: str
    version: str
    samples: int
    seconds: float
    per_second: float
    times_sapper: float
    """Time over Sapper's for the same samples."""
    times_sapper_all: float
    """Time per sample over Sapper's on its largest set."""
    cpu_times_sapper: float
    """CPU time over Sapper's for the same samples."""
    success: float
    mean_distance: float | None
    """Over the successes: share of features changed, or the distance."""
    median_distance: float | None
    """Over all samples, a failure infinitely far."""
    illegal: int
    forwards: float
    """Per sample, as are the backwards."""
    backwards: float
    batch_size: int
    frozen: bool
    floor_seconds: float
    beyond_floor: float
    """The share of the seconds that is not the model's own time."""


def rows(results: Sequence[Result], task: Task) -> list[Row]:
    sapper = {result.entry.samples: result for result in results if result.entry.contender.package == "sapper"}
    return [row(result, sapper[result.entry.samples], sapper[max(sapper)], task) for result in results]


def row(result: Result, same: Result, largest: Result, task: Task) -> Row:
    entry, all_of = result.entry, result.measurements
    seconds = median([one.seconds for one in all_of])
    return Row(
        library=entry.contender.name,
        version=entry.contender.version,
        samples=entry.samples,
        seconds=seconds,
        per_second=entry.samples / seconds,
        times_sapper=paired_ratio(result, same, attrgetter("seconds")),
        times_sapper_all=paired_ratio(result, largest, attrgetter("seconds")),
        cpu_times_sapper=paired_ratio(result, same, attrgetter("cpu_seconds")),
        success=median([one.verdict.successes / entry.samples for one in all_of]),
        mean_distance=mean_distance(all_of, task),
        median_distance=median_distance(all_of),
        illegal=max(one.verdict.illegal for one in all_of),
        forwards=median([one.forwards / entry.samples for one in all_of]),
        backwards=median([one.backwards / entry.samples for one in all_of]),
        batch_size=result.setting.batch_size,
        frozen=result.setting.frozen,
        floor_seconds=median([one.floor_seconds for one in all_of]),
        beyond_floor=median([1 - one.floor_seconds / one.seconds for one in all_of]),
    )


def mean_distance(measurements: Sequence[Measurement], task: Task) -> float | None:
    found = [one.verdict.mean_distance for one in measurements if one.verdict.mean_distance is not None]
    if not found:
        return None
    return median(found) / (task.x[0].numel() if task.budget.norm == 0 else 1)


def median_distance(measurements: Sequence[Measurement]) -> float | None:
    all_of = [one.verdict.median_distance for one in measurements]
    return None if None in all_of else median([one for one in all_of if one is not None])


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def cells(row: Row, task: Task) -> dict[str, str]:
    targeted = task.targets is not None
    share = ".2%" if targeted else ".3f"
    distance = "–" if row.mean_distance is None else format(row.mean_distance, share)
    shown = {
        "library": f"{row.library} {row.version}",
        "pairs" if targeted else "samples": f"{row.samples}",
        "seconds": f"{row.seconds:.2f}",
        "per second": f"{row.per_second:.3g}",
        "÷ Sapper": f"{row.times_sapper:.1f}",
    }
    if targeted:
        shown["÷ Sapper on all"] = f"{row.times_sapper_all:.1f}"
        shown["success"] = f"{row.success:.2%}"
    elif math.isinf(task.budget.size):
        shown["success"] = f"{row.success:.0%}"
        shown["median distance"] = "–" if row.median_distance is None else f"{row.median_distance:.4g}"
    else:
        shown["robust accuracy"] = f"{1 - row.success:.2%}"
    return shown | {
        "mean distance": distance,
        "÷ Sapper, CPU": f"{row.cpu_times_sapper:.1f}",
        "illegal": f"{row.illegal}",
        "forwards": f"{row.forwards:.1f}",
        "backwards": f"{row.backwards:.1f}",
        "beyond the floor": f"{row.beyond_floor:.0%}",
        "batch": "own" if row.batch_size == 0 else f"{row.batch_size}",
        "weights": "frozen" if row.frozen else "as given",
    }


def markdown(title: str, lines: Sequence[dict[str, str]]) -> str:
    header = list(lines[0])
    ruled = ["---"] + ["---:"] * (len(header) - 1)
    body = [list(line.values()) for line in lines]
    return f"## {title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in [header, ruled, *body])


def terminal(title: str, lines: Sequence[dict[str, str]]) -> Table:
    """The first columns, those that 80 characters hold."""
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(list(lines[0])[:TERMINAL_COLUMNS]):
        table.add_column(name, justify="right" if number else "left")
    for line in lines:
        table.add_row(*list(line.values())[:TERMINAL_COLUMNS])
    return table


def record(row: Row, result: Result) -> dict[str, object]:
    """A row with each round's figures, for the JSON."""
    return {**asdict(row), "rounds": [asdict(one) for one in result.measurements]}


def floor_note(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """What the model alone takes, and what Sapper adds."""
    ours = max((row for row in rows if row.library == "Sapper"), key=lambda row: row.samples)
    floor = results[0].measurements[-1].floor
    return (
        f"The floor: at its best batch of {floor.batch_size}, {floor.workers} at once, the model takes "
        f"{1e6 * floor.forward:.0f} µs a sample forwards and {1e6 * floor.backward:.0f} µs backwards (weights frozen). For "
        f"what Sapper asked of it on {ours.samples} that is {ours.floor_seconds:.2f} s of {ours.seconds:.2f} s: "
        f"{ours.beyond_floor:.0%} is ours. "
        "Times are medians of alternating rounds, ratios medians of each round's own; an illegal input is no success; "
        "distances are over the successes, forwards and backwards per sample."
    )
