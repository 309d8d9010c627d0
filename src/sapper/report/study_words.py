"""A study's numbers, verdicts and reference in words: the same on the page, in the document and on the console."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sapper.claims import Claim, Outcome, Table
from sapper.report.words import NONE, THIN, number, plural

MARKS = {"met": "✓", "missed": "✗", "not comparable": "○"}
SURE = {"stated": "stated", "second hand": "second hand", "memory": "from memory", "derived": "derived"}
DIGITS = 4  # of a number in a table, if it has as many
BANNER = "A quick look, not the paper's size; verdicts say little."

Value = str | float | int | None


@dataclass(frozen=True)
class ClaimLine:
    """A claim as it is written."""

    part: int
    what: str
    where: str
    paper: str
    sure: str
    accepted: str
    measured: str
    verdict: str
    mark: str
    """Differs with the verdict, for those who see no colours."""
    note: str


def claim_line(claim: Claim, part: int) -> ClaimLine:
    """The measured number has the paper's decimals, or three digits if that is more; and more where rounding would put
    it on the other side of the range.
    """
    said = [v for v in (claim.paper, *(claim.within or ())) if v is not None and math.isfinite(v)]
    measured = claim.measured
    digits = 0
    if measured is not None and math.isfinite(measured):
        digits = max(_decimals(v) for v in (*said, float(f"{measured:.3g}")))
        while digits < 12 and _rounds_over(claim, measured, digits):
            digits += 1
    return ClaimLine(
        part=part,
        what=claim.what,
        where=claim.where,
        paper=_with_unit(_plain(claim.paper), claim.unit),
        sure=SURE[claim.sure],
        accepted=_with_unit(_range(claim.within), claim.unit),
        measured=_with_unit(_fixed(measured, digits), claim.unit),
        verdict=claim.verdict,
        mark=MARKS[claim.verdict],
        note=claim.note,
    )


def claim_lines(outcome: Outcome) -> list[ClaimLine]:
    return [claim_line(claim, place) for place, part in enumerate(outcome.parts, 1) for claim in part.claims]


def tally(outcome: Outcome) -> str:
    """How many claims are met, missed and not comparable, in one sentence."""
    count = Counter(claim.verdict for part in outcome.parts for claim in part.claims)
    total = count.total()
    if not total:
        return "It makes no claims."
    met, missed, other = (count[verdict] for verdict in MARKS)
    return (
        f"Of {plural(total, 'claim')} {number(met)} {'is' if met == 1 else 'are'} met, {number(missed)} missed "
        f"and {number(other)} not comparable."
    )


def commits(outcome: Outcome) -> str:
    """Of which commit the code was; of which the code of each part was where they differ."""
    made = [part.commit[:10] or "unknown" for part in outcome.parts]
    if len(set(made)) < 2:
        return f"commit {made[0]}" if made else ""
    parts = {
        commit: [str(place) for place, other in enumerate(made, 1) if other == commit] for commit in dict.fromkeys(made)
    }
    told = "; ".join(f"{commit} made part {', '.join(places)}" for commit, places in parts.items())
    return f"Made by the code of several commits: {told}."


@dataclass(frozen=True)
class Column:
    name: str
    numeric: bool
    cells: list[str]


def table_columns(table: Table) -> list[Column]:
    """Numbers of a column with the same decimals."""
    assert all(len(row) == len(table.columns) for row in table.rows), f"rows of {table.title!r} differ in length"
    columns = []
    for place, name in enumerate(table.columns):
        values = [row[place] for row in table.rows]
        floats = [v for v in values if isinstance(v, float) and math.isfinite(v)]
        digits = _column_decimals(floats)
        numeric = all(not isinstance(v, str) for v in values)
        columns.append(Column(name, numeric, [_cell(v, digits) for v in values]))
    return columns


@dataclass(frozen=True)
class Reference:
    """A paper; all but `bibtex` empty if it cannot be read."""

    authors: str
    title: str
    year: str
    venue: str
    url: str
    bibtex: str


def reference(bibtex: str) -> Reference:
    fields = dict(re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\},?\s*$", bibtex, re.MULTILINE))
    url = fields.get("url", "")
    return Reference(
        authors=fields.get("author", "").replace(" and ", ", "),
        title=fields.get("title", "").strip("{}"),
        year=fields.get("year", ""),
        venue=fields.get("booktitle") or fields.get("journal") or "",
        url=url if url.startswith(("https://", "http://")) else "",
        bibtex=bibtex.strip(),
    )


def duration(seconds: float) -> str:
    """Two units at most."""
    if seconds < 60:
        return f"{number(round(seconds, 1))}{THIN}s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours}{THIN}h {rest}{THIN}min" if hours else f"{minutes}{THIN}min"


def _with_unit(text: str, unit: str) -> str:
    return text if not unit or text == NONE else f"{text}{THIN}{unit}"


def _plain(value: float | None) -> str:
    """As the paper prints it, no digit dropped."""
    if value is None or not math.isfinite(value):
        return NONE
    return _grouped(f"{value:.10g}")


def _decimals(value: float) -> int:
    text = f"{value:.10g}"
    return 0 if "e" in text else len(text.partition(".")[2])


def _fixed(value: float | None, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return NONE
    if value and abs(value) < 0.5 * 10**-digits:
        return number(value).replace("-", "−")
    return _grouped(f"{round(value, digits) + 0.0:.{digits}f}")  # no −0.0


def _grouped(text: str) -> str:
    whole, point, rest = text.lstrip("-").partition(".")
    if whole.isdigit() and len(whole) > 3:
        whole = f"{int(whole):,}".replace(",", THIN)
    return f"{'−' if text.startswith('-') else ''}{whole}{point}{rest}"


def _rounds_over(claim: Claim, measured: float, digits: int) -> bool:
    if claim.within is None:
        return False
    low, high = claim.within
    return (low <= round(measured, digits) <= high) != (claim.verdict == "met")


def _range(ends: tuple[float, float] | None) -> str:
    if ends is None:
        return NONE
    low, high = ends
    return _plain(low) if low == high else f"{_plain(low)} to {_plain(high)}"


def _column_decimals(values: Sequence[float]) -> int:
    needed = max((len(f"{v:.10f}".rstrip("0").partition(".")[2]) for v in values), default=0)
    largest = max((abs(v) for v in values), default=0.0)
    room = DIGITS - 1 - math.floor(math.log10(largest)) if largest else 0
    return min(needed, max(room, 0))


def _cell(value: Value, digits: int) -> str:
    if isinstance(value, str):
        return value
    return _grouped(str(value)) if isinstance(value, int) else _fixed(value, digits)
