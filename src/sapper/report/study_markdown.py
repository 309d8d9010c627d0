"""A study as one Markdown document beside its pictures."""

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from sapper.claims import Outcome, Part
from sapper.report import study_words as words
from sapper.report.study_words import ClaimLine

HEAD = ("what the paper says", "where", "paper", "accepted", "measured", "verdict")
RIGHT = (False, False, True, True, True, False)


def document(outcome: Outcome) -> str:
    """GitHub's Markdown. Only the parts' own text is taken as Markdown; all else is escaped."""
    blocks = [*_top(outcome), "## All claims", *_claims(words.claim_lines(outcome), notes=False)]
    for place, part in enumerate(outcome.parts, 1):
        blocks += _part(place, part)
    versions = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    blocks += [
        "## To reproduce this",
        _fenced(outcome.command, "sh"),
        escaped(versions),
        escaped(words.commits(outcome)),
    ]
    blocks += ["## The paper", _fenced(outcome.paper, "bibtex")]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _top(outcome: Outcome) -> Iterable[str]:
    paper = words.reference(outcome.paper)
    title = (
        f"*{escaped(paper.title)}*" if not paper.url else f"[*{escaped(paper.title)}*](<{quote(paper.url, ':/?#=&%')}>)"
    )
    named = f"{escaped(paper.authors)} ({paper.year}). {title}." + (f" {escaped(paper.venue)}." if paper.venue else "")
    yield f"# {escaped(outcome.title)}"
    yield f"Reproduces: {named}" if paper.title else ""
    yield f"> **{words.BANNER}**" if outcome.scale == "smoke" else ""
    seconds = sum(part.seconds for part in outcome.parts)
    yield f"**{words.tally(outcome)}** Scale: {outcome.scale}. Took {words.duration(seconds)}."


def _part(place: int, part: Part) -> Iterable[str]:
    yield f"## {place}. {escaped(part.title)}"
    yield part.text.strip()
    for table in part.tables:
        columns = words.table_columns(table)
        yield f"**{escaped(table.title)}**"
        rows = zip(*(column.cells for column in columns), strict=True)
        yield _table([column.name for column in columns], [column.numeric for column in columns], list(rows))
    for figure in part.figures:
        yield f"![{escaped(figure.caption)}](figures/{quote(figure.file)})"
        yield f"*{escaped(figure.caption)}*"
    yield from _claims([words.claim_line(claim, place) for claim in part.claims], notes=True)
    yield f"Took {words.duration(part.seconds)}."


def _claims(lines: Sequence[ClaimLine], *, notes: bool) -> list[str]:
    if not lines:
        return []
    rows = [
        (
            line.what,
            line.where,
            f"{line.paper} ({line.sure})",
            line.accepted,
            line.measured,
            f"{line.mark} {line.verdict}",
        )
        for line in lines
    ]
    said = [f"- {escaped(line.what)}: {escaped(line.note)}" for line in lines if notes and line.note]
    return [_table(HEAD, RIGHT, rows), *(["\n".join(said)] if said else [])]


def _table(names: Sequence[str], right: Sequence[bool], rows: Sequence[Sequence[str]]) -> str:
    head = [escaped(name) or " " for name in names]
    rule = ["---:" if numeric else "---" for numeric in right]
    lines = [head, rule, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def escaped(text: str) -> str:
    """Plain text, in one line."""
    return re.sub(r"([\\`*_\[\]<>|~&#])", r"\\\1", re.sub(r"[ \t\r\n]+", " ", text).strip(" "))


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.strip()}\n{fence}"
