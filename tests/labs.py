"""What the tests of the studies share."""

import os
from pathlib import Path

import pytest
from rich.console import Console

from sapper.lab import Lab

needs_mnist = pytest.mark.skipif(
    not (Path(os.environ.get("SAPPER_DATA", "")) / "mnist").is_dir(), reason="set SAPPER_DATA to a folder with mnist/"
)


def lab(out: Path, data: str = "mnist") -> Lab:
    """At the smoke scale."""
    return Lab(out=out, scale="smoke", data=data, console=Console(quiet=True))
