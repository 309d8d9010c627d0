"""A small server of the tests' own: a linear model of the digits behind three protocols, which can be rude."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression


@cache
def classifier() -> LogisticRegression:
    x, y = load_digits(return_X_y=True)
    return LogisticRegression(max_iter=60, C=0.5, tol=1e-2).fit(x[:-500] / 16, y[:-500])


@dataclass
class Served:
    """What the server has seen, and what it does instead of answering."""

    url: str = ""
    rows: Counter[bytes] = field(default_factory=Counter)
    """How often each row came, answered or not."""
    requests: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)
    rude: dict[int, Callable[["Handler"], bool | None]] = field(default_factory=dict)
    """By the number of the request, from 1; True where it shall be answered all the same."""
    answer: Callable[[np.ndarray], list] = lambda x: classifier().predict_proba(x).tolist()
    delay: float = 0.0
    metadata: dict | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def total(self) -> int:
        return sum(self.rows.values())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"
    disable_nagle_algorithm = True

    def log_message(self, *words: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            super().handle()

    def reply(self, status: int, body: bytes | object, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        metadata = self.server.served.metadata
        self.reply(404, {"error": "no metadata"}) if metadata is None else self.reply(200, metadata)

    def do_POST(self) -> None:
        served = self.server.served
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        rows, write = self.read(asked)
        with served.lock:
            served.requests += 1
            number = served.requests
            served.rows.update(row.tobytes() for row in rows)
            served.headers.append(dict(self.headers))
            served.connections.add(self.client_address)
        self.rows, self.write = rows, write
        if served.delay:
            time.sleep(served.delay)
        rude = served.rude.get(number)
        if rude is None or rude(self):
            self.reply(200, write(served.answer(rows)))

    def read(self, asked: dict) -> tuple[np.ndarray, Callable[[list], object]]:
        if self.path.startswith("/v2/"):
            (tensor,) = asked["inputs"]
            x = np.array(tensor["data"], np.float64).reshape(tensor["shape"][0], -1)
            assert x.size == np.prod(tensor["shape"])

            def write(answers: list) -> dict:
                array = np.array(answers)
                kind = "FP64" if array.dtype.kind == "f" else "BYTES" if array.dtype.kind == "U" else "INT64"
                one = {"name": "out", "shape": list(array.shape), "datatype": kind, "data": array.ravel().tolist()}
                return {"model_name": "m", "outputs": [one]}

            return x, write
        if self.path.partition("?")[0] == "/invocations":
            return flat(asked["inputs"]), lambda answers: {"predictions": answers}
        if "image" in asked:
            return flat([asked["image"]]), lambda answers: {"result": {"scores": answers[0]}}
        return flat(asked["instances"]), lambda answers: {"predictions": [{"p": one, "label": "x"} for one in answers]}


def flat(rows: list) -> np.ndarray:
    return np.array(rows, np.float64).reshape(len(rows), -1)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    served: Served

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextmanager
def serving(**options: object) -> Iterator[Served]:
    classifier()
    server = Server(("127.0.0.1", 0), Handler)
    server.served = Served(url=f"http://127.0.0.1:{server.server_port}", **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
