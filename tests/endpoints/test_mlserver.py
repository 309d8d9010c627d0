"""A real server: MLServer with a scikit-learn model, asked by the Open Inference Protocol."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import polars as pl
import pytest
import torch

from audits import audit, rows
from sapper.data.loading import load_data
from sapper.models.loading import load_model
from servers import classifier

MLSERVER = Path(sys.executable).with_name("mlserver")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not MLSERVER.exists():
        pytest.skip("MLServer is not installed here: it is in the dev group of pyproject.toml")
    folder = tmp_path_factory.mktemp("mlserver")
    joblib.dump(classifier(), folder / "digits.joblib")
    model = {
        "name": "digits",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "digits.joblib"},
    }
    flat = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]}
    (folder / "model-settings.json").write_text(json.dumps(model | flat))
    http, grpc = free_ports(2)
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "parallel_workers": 0,
        "metrics_endpoint": None,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [MLSERVER, "start", folder], stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": ""}
        )
        try:
            address = f"http://127.0.0.1:{http}/v2/models/digits"
            await_ready(address, running, folder / "log")
            yield address
        finally:
            running.terminate()
            running.wait(20)


def free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


def await_ready(address: str, running: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 90
    while True:
        assert running.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.1)


def test_labels_by_its_address(url: str) -> None:
    data = load_data("digits", limit=40)
    model = load_model(url, like=data)
    answer = model.module(data.x)
    assert (answer.argmax(1).numpy() == classifier().predict(data.x.flatten(1).numpy())).all()
    assert set(answer.unique().tolist()) == {0.0, 1.0}


def test_an_audit_by_its_scores(url: str, tmp_path: Path) -> None:
    data, path = load_data("digits", limit=40), tmp_path / "digits.toml"
    path.write_text(f'url = "{url}"\noutput = "predict_proba"\n')
    answer = load_model(str(path), like=data).module(data.x).softmax(1)
    np.testing.assert_allclose(answer.numpy(), classifier().predict_proba(data.x.flatten(1).numpy()), atol=1e-5)
    audit(
        path,
        "--limit",
        "40",
        "--attack",
        "square:steps=20",
        "--threat",
        "linf:0.2",
        "--budget",
        "300",
        "--out",
        tmp_path / "run",
    )
    found = rows(tmp_path / "run").filter(pl.col("found"))
    assert len(found)
    assert (found["prediction"] != found["label"]).all()
    used = json.loads((tmp_path / "run" / "endpoint.json").read_text())
    assert (used["sent"], used["answered"], used["retried"], used["is_spent"]) == (300, 300, 0, True)
    assert torch.equal(data.y[found["sample"].to_torch()], found["label"].to_torch())
