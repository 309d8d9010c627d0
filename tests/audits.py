"""Running audits as a user does: in this process, or as a real one where it is the process that is tested."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.numpy
from polars.testing import assert_frame_equal

from sapper import cli
from sapper.models.training import train

SAPPER = str(Path(sys.executable).with_name("sapper"))
ENVIRONMENT = os.environ | {"COLUMNS": "80"}


@dataclass(frozen=True)
class Answer:
    """How the program ended, and what it said."""

    code: int
    out: str
    err: str


def ask(*words: str | Path) -> Answer:
    """The command line in this process; what is no `SapperError` goes through."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    code: int | str | None = None
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
    assert code is None or isinstance(code, int)
    return Answer(code or 0, *map(_content, (out, err)))


def _content(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def audit(*words: str | Path) -> Answer:
    """One that must end well."""
    answer = ask("audit", *words)
    assert answer.code == 0, answer.err
    return answer


def process(*words: str | Path, **options) -> subprocess.Popen[str]:
    command = [SAPPER, *map(str, words)]
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
    return subprocess.Popen(command, **usual | options)


def trained(factory: pytest.TempPathFactory) -> Path:
    """A small network that is right on most digits and easily fooled; trained once a session."""
    folder = factory.getbasetemp() / "small-network"
    return train("mlp", "digits", folder, epochs=3, learning_rate=0.1)


def logits(model: Path, x: np.ndarray) -> np.ndarray:
    """The network in the folder, computed without torch and without sapper, in double precision."""
    weights = safetensors.numpy.load_file(model / "weights.safetensors")
    hidden = x.reshape(len(x), -1).astype(np.float64)
    for layer in (1, 3, 5):
        hidden = hidden @ weights[f"{layer}.weight"].T.astype(np.float64) + weights[f"{layer}.bias"]
        hidden = hidden if layer == 5 else np.maximum(hidden, 0)
    return hidden


def shards(run: Path) -> list[Path]:
    return sorted((run / "shards").glob("*/*.parquet"))


def tensors(path: Path, name: str) -> np.ndarray:
    return safetensors.numpy.load_file(path.with_suffix(".safetensors"))[name]


def rows(run: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in shards(run)])


def adversarial(run: Path) -> np.ndarray:
    """In the order of `rows`."""
    return np.concatenate([tensors(path, "x_adv") for path in shards(run)])


def files(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


def assert_same_run(run: Path, other: Path) -> None:
    """Two runs with the same rows, up to the time they took, and the same tensors to the bit.

    Each asks an endpoint for second answers of its own.
    """
    names = [path.relative_to(run) for path in shards(run)]
    assert names == [path.relative_to(other) for path in shards(other)]
    whole = [path.name for path in run.glob("*.parquet")]
    assert sorted(whole) == sorted(path.name for path in other.glob("*.parquet"))
    for path in [*names, *whole]:
        one, two = (pl.read_parquet(folder / path, glob=False).select(pl.exclude("seconds")) for folder in (run, other))
        if path == "queries.parquet":
            one, two = one.filter(asking=0), two.filter(asking=0)
        assert_frame_equal(one, two, check_exact=True)
    for path, name in [(path, "x_adv") for path in names] + [(Path("samples"), "x")]:
        np.testing.assert_array_equal(tensors(run / path, name), tensors(other / path, name))
