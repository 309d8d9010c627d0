"""What a run ran on, and what it used: environment.json."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sapper import catalogue
from sapper.attack import Attack, Cascade
from sapper.data.dataset import Data
from sapper.foreign import access
from sapper.models.model import Model
from sapper.models.remote import endpoint_of
from sapper.spec import Spec, command
from sapper.tensors import Batch

PACKAGES = ("sapper", "torch", "numpy", "polars", "scikit-learn")


def describe(
    spec: Spec, model: Model, data: Data, x: Batch, attacks: list[Attack | Cascade], batch_size: int
) -> dict[str, Any]:
    """Everything that a reader needs beside the spec."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": told(spec, model),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "device": "cpu" if x.device.type == "cpu" else torch.cuda.get_device_name(x.device),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "commit": commit(),
        "dtype": str(x.dtype).removeprefix("torch."),
        "seed": spec.seed,
        "batch_size": batch_size,
        "model": {
            "name": model.name,
            "description": model.description,
            "digest": model.digest,
            "access": access(model.module),
        },
        "data": {"name": data.name, "samples": len(data), "shape": list(data.shape)},
        "classes": list(data.classes),
        "bounds": list(data.bounds),
        "citations": [
            {"name": name, **vars(paper), "bibtex": paper.bibtex()} for name, paper in catalogue.papers(attacks)
        ],
    }


def told(spec: Spec, model: Model) -> str:
    """The command line, with the terms on which an endpoint is asked."""
    endpoint = endpoint_of(model.module)
    return command(spec, endpoint.terms.budget, endpoint.terms.rate) if endpoint else command(spec)


def commit() -> str | None:
    """Of the checkout that Sapper runs from; None where it is installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:  # no git on this machine
        return None
    return asked.stdout.strip() or None
