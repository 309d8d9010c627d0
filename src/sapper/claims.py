"""What a study yields: a paper's claims as data, each beside what was measured; tables; figures. No torch.

A claim is met, missed or not comparable; none is dropped.
"""

import math
from typing import Literal

import msgspec

Scale = Literal["smoke", "paper"]
Sure = Literal["stated", "second hand", "memory", "derived"]
"""How sure we are that a paper says so: read there or in a text that quotes it, in notes on it, recalled, or worked out."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What the paper says, and what was measured."""

    what: str
    where: str
    """Table, figure or section."""
    sure: Sure
    paper: float | None = None
    """Its number; None where it only shows or says."""
    within: tuple[float, float] | None = None
    """The range that counts as met; None where nothing can be compared."""
    measured: float | None = None
    unit: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.within is None or self.measured is None or math.isnan(self.measured):
            return "not comparable"
        low, high = self.within
        return "met" if low <= self.measured <= high else "missed"


def percent(
    what: str, where: str, sure: Sure, paper: float | None, measured: float | None,
    within: tuple[float, float] | None = None, note: str = "",
) -> Claim:  # fmt: skip
    """A claim about a share, which is measured as one and told in percent."""
    value = None if measured is None or math.isnan(measured) else round(100 * measured, 2)
    return Claim(what=what, where=where, sure=sure, paper=paper, within=within, measured=value, unit="%", note=note)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    columns: list[str]
    rows: list[list[str | float | int | None]]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A picture in the study's folder `figures/`."""

    file: str
    caption: str


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One table or figure of the paper."""

    title: str
    text: str = ""
    """What was done and seen, in Markdown paragraphs."""
    claims: list[Claim] = []
    tables: list[Table] = []
    figures: list[Figure] = []
    seconds: float = 0.0
    commit: str = ""
    """Of the code that made it, where that is known."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """study.json."""

    name: str
    title: str
    scale: Scale
    command: str
    paper: str
    versions: dict[str, str]
    parts: list[Part]
    version: int = 1
