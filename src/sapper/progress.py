"""Progress of a run: a bar for each attack with what is done, found, the rate and the time left."""

from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class CaseProgress:
    """Bars on the console; on one that is no terminal, a line for each attack when it is done."""

    def __init__(self, console: Console, queries: Callable[[], str] | None = None) -> None:
        """Args:
        console: Where to.
        queries: Says what an endpoint has been asked, where there is one.
        """
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[found]}"),
            _Rate(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._console, self._queries = console, queries
        self._base = self._found = 0

    def __enter__(self) -> "CaseProgress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, name: str, total: int, *, found: bool = True) -> None:
        """A bar for one attack, or for work that finds nothing."""
        self._task = self._bars.add_task(name, total=total, found="")
        self._finds = found
        self._name, self._total = name, total
        self._base = self._found = 0

    def step(self, done: int, found: int) -> None:
        """Within a shard."""
        text = f"[bold]{self._found + found}[/] found" if self._finds else ""
        text = ", ".join(filter(None, (text, self._queries and self._queries())))
        self._bars.update(self._task, completed=self._base + done, found=text)

    def finish_shard(self, done: int, found: int) -> None:
        self._base, self._found = self._base + done, self._found + found
        self.step(0, 0)
        if self._base == self._total and not self._console.is_terminal:
            asked = f", {self._queries()}" if self._queries else ""
            self._console.print(f"{self._name}: {self._found} of {self._total} found{asked}")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s")
