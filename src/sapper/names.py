"""Names of files."""

import re


def slug(text: str) -> str:
    """A name that every file system takes: `l0:14.5%` -> `l0-14.5pct`, `linf:8/255` -> `linf-8_255`."""
    return re.sub(r"[^\w.=,+-]+", "-", text.replace("%", "pct").replace("/", "_").replace("*", "x")).strip("-._")
