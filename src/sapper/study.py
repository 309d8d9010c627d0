"""A study reproduces a paper. One file in `studies/`: the paper, and `parts`, functions from a `Lab` to a `Part`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from sapper.citation import Paper
from sapper.claims import Part
from sapper.lab import Lab


class Study(ABC):
    """One paper.

    Class keywords:
        paper: What is reproduced.
        title: In a few words.
        reproduces: Which tables and figures.
        takes: How long each scale takes on 2 cores.
        data: The data set it needs.
        shape: Of its samples; other data are refused. None if any will do.
    """

    paper: ClassVar[Paper]
    title: ClassVar[str]
    reproduces: ClassVar[str]
    takes: ClassVar[Mapping[str, str]]
    data: ClassVar[str]
    shape: ClassVar[tuple[int, ...] | None]

    def __init_subclass__(
        cls, *, paper: Paper, title: str, reproduces: str, takes: Mapping[str, str], data: str,
        shape: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        cls.paper, cls.title, cls.reproduces, cls.takes = paper, title, reproduces, takes
        cls.data, cls.shape = data, shape

    @abstractmethod
    def parts(self) -> Sequence[tuple[str, Callable[[Lab], Part]]]:
        """Name and function of each part, in the paper's order."""
