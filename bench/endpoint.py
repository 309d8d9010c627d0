#!/usr/bin/env python
"""Rows a second through HTTP, beside the server's own limit: bench/endpoint.py [--url URL].

The server is a process of its own: asyncio, no framework, an answer that is ready; or any other by its address. The limit is
what a loop over bare sockets gets with as many requests in flight and the same bytes; then the same by urllib3 alone, and by
Sapper with all it adds: writing the rows, the ledger, the checks of every answer. In turn, medians; each round has new rows.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
import urllib3

from sapper.data.dataset import Data
from sapper.endpoints.endpoint import Endpoint, Terms
from sapper.endpoints.loading import load_endpoint

IN_FLIGHT, ROWS = 8, (1, 8, 32)
SERVER = r"""
import asyncio, json
ANSWERS = {}
def answer(rows):
    body = json.dumps({"predictions": [[0.1] * 10] * rows}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
class Http(asyncio.Protocol):
    def connection_made(self, transport): self.transport, self.held = transport, b""
    def data_received(self, data):
        self.held += data
        while (end := self.held.find(b"\r\n\r\n")) >= 0:
            head = self.held[:end].lower()
            length = int(head[head.find(b"content-length:") + 15:].split(b"\r\n")[0])
            if len(self.held) < end + 4 + length: return
            rows = self.held.count(b"],[", end, end + 4 + length) + 1
            self.held = self.held[end + 4 + length:]
            if rows not in ANSWERS: ANSWERS[rows] = answer(rows)
            self.transport.write(ANSWERS[rows])
async def serve():
    server = await asyncio.get_running_loop().create_server(Http, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(serve())
"""


def bare(url: str, parts: list[bytes]) -> float:
    where = urlsplit(url)
    head = f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\n".encode()
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"

    def talk(mine: list[bytes]) -> None:
        with socket.create_connection((where.hostname, where.port)) as line:
            for body in mine:
                line.sendall(head % len(body) + body)
                told, _, rest = line.recv(1 << 16).partition(b"\r\n\r\n")
                left = int(told.lower().partition(b"content-length:")[2].split(b"\r\n")[0]) - len(rest)
                while left > 0:
                    left -= len(line.recv(left))

    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        begin = time.perf_counter()
        list(threads.map(talk, [parts[first::IN_FLIGHT] for first in range(IN_FLIGHT)]))
        return time.perf_counter() - begin


def library(url: str, parts: list[bytes]) -> float:
    pool, head = urllib3.PoolManager(maxsize=IN_FLIGHT, retries=False), {"Content-Type": "application/json"}
    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        begin = time.perf_counter()
        list(threads.map(lambda body: pool.request("POST", url, body=body, headers=head).data, parts))
        return time.perf_counter() - begin


def sapper(asked: Endpoint, x: np.ndarray) -> float:
    begin = time.perf_counter()
    asked(x)
    return time.perf_counter() - begin


def measure(told: list[str], features: int, rows: int, requests: int, rounds: int) -> dict[str, float]:
    """Rows a second."""
    draws, spent = np.random.default_rng(rows), {"bare": [], "urllib3": [], "sapper": [], "ledger": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAPPER_CACHE"] = folder
        path = Path(folder) / "service.toml"
        path.write_text("\n".join([*told, f"rows = {rows}", f"in_flight = {IN_FLIGHT}"]))
        for number in range(rounds + 1):
            x = (draws.integers(0, 256, (rows * requests, features)) / 255).astype(np.float32)
            like = Data("noise", torch.from_numpy(x[:8]), torch.arange(8), tuple(map(str, range(10))))
            asked, _ = load_endpoint(str(path), like, Terms(str(number), budget=10**9))
            inputs = [row for row in asked.service.inputs(x) if row]
            parts = [asked.service.request(inputs[at : at + rows]) for at in range(0, len(inputs), rows)]
            spent["bare"].append(bare(asked.service.url, parts))
            spent["urllib3"].append(library(asked.service.url, parts))
            for name in ("sapper", "ledger"):
                spent[name].append(partial(sapper, asked, x)())
    return {name: rows * requests / statistics.median(times[1:]) for name, times in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="of another server, instead of the bench's own")
    parser.add_argument("--key", action="append", default=[], help="further lines of its TOML file")
    parser.add_argument("--features", type=int, default=784)
    parser.add_argument("--requests", type=int, default=200, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        own = [f'url = "http://127.0.0.1:{int(server.stdout.readline())}/invocations"']
        told = [f'url = "{options.url}"', *options.key] if options.url else own
        found = {rows: measure(told, options.features, rows, options.requests, options.rounds) for rows in ROWS}
    finally:
        server.terminate()
        server.wait()
    print("| rows a request | in flight | bare sockets, rows/s | urllib3 alone | Sapper | of bare | from the ledger |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for rows, r in found.items():
        cells = [f"{r[name]:,.0f}" for name in ("bare", "urllib3", "sapper")]
        print(f"| {rows} | {IN_FLIGHT} | {' | '.join(cells)} | {r['sapper'] / r['bare']:.0%} | {r['ledger']:,.0f} |")


if __name__ == "__main__":
    main()
