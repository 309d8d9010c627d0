"""What the tests of audits through HTTP share: their options, and what a run folder tells of its queries."""

import json
from pathlib import Path

from sapper import log

OPTIONS = ("--limit", "24", "--attack", "square:steps=12", "--threat", "linf:0.12", "--batch-size", "24")
AGAIN = 4
"""Clean samples whose answer is asked for twice on purpose."""


def queries(run: Path) -> dict[str, object]:
    return json.loads((run / "endpoint.json").read_text())


def finding(run: Path, check: str) -> log.Finding:
    (found,) = [one for one in log.read_summary(run).findings if one.check == check]
    return found
