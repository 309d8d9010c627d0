import gzip
import hashlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from sapper.data import mnist
from sapper.data.files import cache, download, find
from sapper.data.loading import load_data
from sapper.errors import DataError


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address it is served at; nothing provided, the cache empty."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("SAPPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("SAPPER_DATA", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


def test_a_file_is_downloaded_once(served):
    folder, url = served
    (folder / "a.gz").write_bytes(b"content")
    path = find("toy", f"{url}/a.gz", md5(b"content"), "7 bytes")
    assert path == cache() / "data" / "toy" / "a.gz"
    assert path.read_bytes() == b"content"
    (folder / "a.gz").unlink()
    assert find("toy", f"{url}/a.gz", md5(b"content"), "7 bytes") == path


def test_a_provided_file_is_taken_first(served, tmp_path, monkeypatch):
    monkeypatch.setenv("SAPPER_DATA", str(tmp_path))
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a.gz").write_bytes(b"mine")
    assert find("toy", f"{served[1]}/a.gz", md5(b"theirs"), "7 bytes").read_bytes() == b"mine"


def test_another_hash_is_an_error_and_leaves_nothing(served):
    folder, url = served
    (folder / "a.gz").write_bytes(b"tampered")
    with pytest.raises(DataError, match=r"not the file it should be.*SAPPER_DATA"):
        find("toy", f"{url}/a.gz", md5(b"content"), "7 bytes")
    assert list((cache() / "data" / "toy").iterdir()) == []


def test_a_missing_file_is_an_error_and_leaves_nothing(served):
    with pytest.raises(DataError, match=r"cannot download .*404"):
        find("toy", f"{served[1]}/a.gz", md5(b"content"), "7 bytes")
    assert list((cache() / "data" / "toy").iterdir()) == []


def test_no_server_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DataError, match="Check the network"):
        download("http://127.0.0.1:9/a.gz", md5(b""), tmp_path / "toy" / "a.gz", "0 bytes")


def test_a_cache_that_cannot_be_written_is_an_error(served, tmp_path):
    folder, url = served
    (folder / "a.gz").write_bytes(b"content")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write"):
        download(f"{url}/a.gz", md5(b"content"), tmp_path / "file" / "toy" / "a.gz", "7 bytes")


def test_mnist_is_downloaded(served, monkeypatch):
    folder, url = served
    files = {
        "t10k-images-idx3-ubyte.gz": b"\0\0\x08\x03" + np.array([2, 28, 28], ">u4").tobytes() + bytes(2 * 784),
        "t10k-labels-idx1-ubyte.gz": b"\0\0\x08\x01" + np.array([2], ">u4").tobytes() + b"\x07\x02",
    }
    packed = {name: gzip.compress(content) for name, content in files.items()}
    for name, content in packed.items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(mnist, "URL", url)
    monkeypatch.setattr(
        mnist, "FILES", {name: (hashlib.md5(content).hexdigest(), "7 bytes") for name, content in packed.items()}
    )
    assert load_data("mnist").y.tolist() == [7, 2]
    assert load_data("mnist", limit=1).x.shape == (1, 1, 28, 28)
