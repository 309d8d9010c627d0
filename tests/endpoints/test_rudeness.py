"""Whatever an endpoint does once, nothing is lost; what it does again and again ends clearly, and goes on later."""

import email.utils
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sapper.endpoints import client
from sapper.endpoints.endpoint import Endpoint, Terms
from sapper.endpoints.loading import load_endpoint
from sapper.errors import RunError
from servers import Handler, Served, classifier, serving

X = np.random.default_rng(0).random((40, 64)).astype(np.float32)


def endpoint(served: Served, folder: Path, *more: str, terms: Terms | None = None) -> Endpoint:
    lines = [f'url = "{served.url}/invocations"', 'scores = "predictions"', "classes = 10", "timeout = 0.3", *more]
    defaults = {"rows = 8", "in_flight = 2", "backoff = 0.01", "tries = 3"}
    given = {line.partition(" ")[0] for line in more}
    path = folder / "service.toml"
    path.write_text("\n".join([*(one for one in defaults if one.partition(" ")[0] not in given), *lines]))
    return load_endpoint(str(path), None, terms or Terms())[0]


def hang(handler: Handler) -> None:
    time.sleep(0.5)


def status(code: int, body: bytes = b"so sorry\nand more", **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.reply(code, body, **headers)


def hang_up(handler: Handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def half_an_answer(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"predictions": [[0.1')
    handler.wfile.flush()
    handler.close_connection = True


def instead(change: Callable[[list], list]) -> Callable[[Handler], None]:
    return lambda handler: handler.reply(200, handler.write(change(handler.server.served.answer(handler.rows))))


def in_a_moment() -> str:
    return email.utils.formatdate(time.time() + 0.2, usegmt=True)


RUDE = {
    "time-out": hang,
    "429 with seconds": status(429, Retry_After="0.2"),
    "429 with a date": lambda handler: status(429, Retry_After=in_a_moment())(handler),
    "429 with nonsense": status(429, Retry_After="soon"),
    "500": status(500),
    "503 in HTML": status(503, b"<html>busy</html>"),
    "408": status(408),
    "no JSON": lambda handler: handler.reply(200, b"<html>welcome</html>"),
    "half a JSON": half_an_answer,
    "nothing": lambda handler: handler.reply(200, b""),
    "no UTF-8": lambda handler: handler.reply(200, b"\xff\xfe"),
    "fewer rows": instead(lambda answers: answers[:-1]),
    "more rows": instead(lambda answers: answers + answers[:1]),
    "fewer classes": instead(lambda answers: [row[:-1] for row in answers]),
    "more classes": instead(lambda answers: [[*row, 0.0] for row in answers]),
    "nan": instead(lambda answers: [[float("nan")] * 10, *answers[1:]]),
    "null": instead(lambda answers: [[None] * 10, *answers[1:]]),
    "labels": instead(lambda answers: [3 for _ in answers]),
    "text": instead(lambda answers: ["a" for _ in answers]),
    "truth": instead(lambda answers: [True for _ in answers]),
    "an error as an answer": lambda handler: handler.reply(200, {"error": "try again"}),
    "a dropped connection": hang_up,
}


@pytest.mark.parametrize("name", RUDE)
def test_what_happens_once_is_tried_again_and_counted_once(name: str, tmp_path: Path) -> None:
    with serving(rude={2: RUDE[name]}) as served:
        asked = endpoint(served, tmp_path)
        np.testing.assert_array_equal(asked(X), classifier().predict_proba(X))
        count = asked.count()
        assert (count.sent, count.answered, count.requests, count.retried) == (40, 40, 6, 1)
        assert (served.requests, served.total, len(served.rows)) == (6, 48, 40)
        np.testing.assert_array_equal(asked(X), classifier().predict_proba(X))
        assert served.requests == 6


@pytest.mark.parametrize("name", ["500", "no JSON", "fewer classes", "a dropped connection"])
def test_what_happens_always_ends_clearly_and_goes_on_later(name: str, tmp_path: Path) -> None:
    with serving(rude=dict.fromkeys(range(3, 100), RUDE[name])) as served:
        asked = endpoint(served, tmp_path, "in_flight = 1")
        with pytest.raises(
            RunError, match=r"/invocations: .*, 3 times; what was answered is kept: the same command goes on"
        ):
            asked(X)
        assert served.requests == 5
        served.rude.clear()
        np.testing.assert_array_equal(endpoint(served, tmp_path)(X), classifier().predict_proba(X))
        assert served.requests == 5 + 3  # two requests' rows were known
        assert sorted(served.rows.values())[-9:] == [1, *[4] * 8]
        assert asked.count().sent == 40


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 422])
def test_a_refusal_is_not_tried_again_and_says_why(code: int, tmp_path: Path) -> None:
    with serving(rude={1: status(code)}) as served:
        asked = endpoint(served, tmp_path, "in_flight = 1")
        with pytest.raises(
            RunError, match=f"refused the request with status {code}: 'so sorry'; what was answered is kept"
        ):
            asked(X)
        assert served.requests == 1


def test_a_pause_that_is_asked_for_is_kept_by_all(tmp_path: Path) -> None:
    with serving(rude={1: status(429, Retry_After="0.3")}) as served:
        asked = endpoint(served, tmp_path)
        begin = time.monotonic()
        asked(X)
        assert time.monotonic() - begin >= 0.3
        assert served.requests == 6


def test_too_long_a_pause_is_left_to_the_user(tmp_path: Path) -> None:
    later = email.utils.formatdate(time.time() + 7200, usegmt=True)
    for asked_for in ("3600", later):
        with serving(rude={1: status(429, Retry_After=asked_for)}) as served:
            with pytest.raises(RunError, match=r"asks to wait [37]\d{3} s \(status 429, 'so sorry'\); .* goes on"):
                endpoint(served, tmp_path)(X[:1])
            assert served.requests == 1


def test_redirects_are_followed_on_the_same_host_alone(tmp_path: Path) -> None:
    with serving() as there, serving() as served:
        served.rude = {
            1: status(307, Location="/invocations?moved"),
            3: status(308, Location=f"{there.url}/invocations"),
        }
        asked = endpoint(served, tmp_path)
        asked(X[:1])
        assert served.requests == 2
        with pytest.raises(RunError, match=r"leads on to http://127.0.0.1:\d+/invocations \(status 308\)"):
            asked(X[1:2])
        assert (served.requests, there.requests) == (3, 0)


def test_a_host_that_has_never_answered_is_not_tried_again(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = Served(url=f"http://127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(RunError, match="cannot be reached: check the address"):
        endpoint(nobody, tmp_path, "backoff = 5")(X[:1])


def test_an_answer_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_LARGEST", 1000)
    with (
        serving(rude={1: lambda handler: handler.reply(200, b"[" * 2000)}) as served,
        pytest.raises(RunError, match="answered with more than"),
    ):
        endpoint(served, tmp_path)(X[:1])


def test_the_rate_is_kept_and_several_are_in_flight(tmp_path: Path) -> None:
    with serving() as served:
        asked = endpoint(served, tmp_path, terms=Terms(rate=20))
        begin = time.monotonic()
        asked(X)
        assert time.monotonic() - begin >= 4 / 20
        assert served.requests == 5
    with serving(delay=0.1) as served:
        asked = endpoint(served, tmp_path, "in_flight = 5")
        begin = time.monotonic()
        asked(X)
        assert served.requests == 5
        assert len(served.connections) == 5
        assert time.monotonic() - begin < 0.45  # one after the other takes half a second
        asked(X + 1)
        assert len(served.connections) == 5  # which stay open
