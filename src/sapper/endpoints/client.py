"""Posts requests over connections that stay open: at the rate allowed, again where that helps, with a clear end where not.

Tried again: time-outs, broken connections, 408, 425, 429, 5xx, and answers that are none. Not tried again: what the endpoint
refuses (other 4xx), addresses that lead elsewhere, certificates that are wrong, and a host that has not answered once.
"""

import email.utils
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError, SSLError
from urllib3.exceptions import TimeoutError as TimedOut

from sapper.endpoints.service import BadAnswerError, decoded, first_line
from sapper.endpoints.settings import Secrets, Settings
from sapper.errors import RunError

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds that an endpoint may ask to wait; beyond, the user decides."""
_LONGEST_WAIT = 60.0
_LARGEST = 256 << 20  # bytes of an answer
_AGAIN = (408, 425, 429)
_OF_THE_BODY = (400, 415, 422, 500, 501)
"""What servers say to a body that they cannot take."""
_HOPS = 3

GOES_ON = "what was answered is kept: the same command goes on where it was"


class Pace:
    """Gives the threads their turns, a request each, evenly spaced."""

    def __init__(self, rate: float | None) -> None:
        self._gap = 1 / rate if rate else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def turn(self) -> float:
        """Seconds to wait until the turn that is taken hereby."""
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self._gap
            return begin - now

    def pause(self, seconds: float) -> None:
        """Nobody's turn comes before."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class _AgainError(Exception):
    """One try failed, another may not."""

    def __init__(self, reason: str, outcome: str, wait: float | None = None, advice: str = "") -> None:
        super().__init__(reason)
        self.outcome, self.wait, self.advice = outcome, wait, advice


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    content: bytes


class Stopped(Exception):  # noqa: N818 (not an error: the others' end)
    """Another request has failed for good, or the user has interrupted."""


Note = Callable[[int, float, str], None]
"""Told (which try, seconds, what came of it) of every request."""


class Client:
    """Safe for threads."""

    def __init__(self, settings: Settings, rate: float | None = None) -> None:
        """Raises:
        UsageError: A token is not in the environment.
        """
        self._settings, self._secrets = settings, Secrets()
        filled = {name: self._secrets.filled(value) for name, value in settings.headers.items()}
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", **filled}
        self._pace, self.stop = Pace(rate), threading.Event()
        self._pool = _pool(settings)
        self._has_answered = False
        self.advice = ""
        """What to do where the server cannot take what it is sent."""

    def close(self) -> None:
        self._pool.clear()

    def get(self, url: str) -> object:
        """The JSON at an address; None where there is none to read.

        Raises:
            RunError: The endpoint does not answer, or refuses.
        """
        reply = self._insist("GET", url, None, lambda reply: reply, lambda attempt, seconds, outcome: None, absent=True)
        try:
            return decoded(reply.content) if reply.status == 200 else None
        except BadAnswerError:
            return None

    def post(self, url: str, body: bytes, read: Callable[[object], T], note: Note) -> T:
        """The answer, as `read` makes it of the JSON.

        Raises:
            RunError: None is to be had; what happened, and that the same command goes on.
            Stopped: `stop` was set.
        """
        return self._insist("POST", url, body, lambda reply: read(decoded(reply.content)), note)

    def _insist(
        self, method: str, url: str, body: bytes | None, read: Callable[[Reply], T], note: Note, *, absent: bool = False
    ) -> T:
        for attempt in range(1, self._settings.tries + 1):
            self._sleep(self._pace.turn())
            begin = time.perf_counter()
            try:
                answer = self._once(method, url, body, read, absent=absent)
            except _AgainError as error:
                note(attempt, time.perf_counter() - begin, error.outcome)
                if attempt == self._settings.tries:
                    advice = f"; {error.advice}" if error.advice else ""
                    raise RunError(self._told(url, f"{error}, {attempt} times; {GOES_ON}{advice}.")) from None
                self._wait(attempt, error.wait)
            except RunError:
                note(attempt, time.perf_counter() - begin, "refused")
                raise
            else:
                note(attempt, time.perf_counter() - begin, "ok")
                return answer
        raise AssertionError

    def _once(self, method: str, url: str, body: bytes | None, read: Callable[[Reply], T], *, absent: bool) -> T:
        reply = self._reply(method, self._secrets.filled(url), body)
        self._check(url, reply, absent=absent)
        try:
            return read(reply)
        except BadAnswerError as error:
            raise _AgainError(str(error), "bad answer", advice=error.advice) from None

    def _reply(self, method: str, address: str, body: bytes | None) -> Reply:
        """One reply, at the address or where on the same host it leads."""
        reply = self._exchange(method, address, body)
        for _ in range(_HOPS):
            there = urljoin(address, reply.headers.get("Location", ""))
            if reply.status not in (307, 308) or urlsplit(there)[:2] != urlsplit(address)[:2]:
                break
            address, reply = there, self._exchange(method, there, body)
        return reply

    def _exchange(self, method: str, address: str, body: bytes | None) -> Reply:
        try:
            response = self._pool.request(
                method, address, body=body, headers=self._headers, redirect=False, preload_content=False
            )
            content = response.read(_LARGEST + 1)
            if len(content) > _LARGEST:
                response.close()
                raise RunError(self._told(address, f"answered with more than {_LARGEST >> 20} MiB; {GOES_ON}."))
            response.release_conn()
        except NewConnectionError:
            if not self._has_answered:  # more likely misspelt than busy
                reason = "cannot be reached: check the address, and that the endpoint runs."
                raise RunError(self._told(address, reason)) from None
            raise _AgainError("cannot be reached any more", "connection") from None
        except TimedOut:
            raise _AgainError(f"gave no answer within {self._settings.timeout:g} s", "time-out") from None
        except (SSLError, ssl.SSLError) as error:
            raise RunError(self._told(address, f"no safe connection ({error}).")) from None
        except HTTPError as error:
            raise _AgainError(f"the connection failed ({type(error).__name__})", "connection") from None
        self._has_answered = True
        return Reply(response.status, response.headers, content)

    def _check(self, url: str, reply: Reply, *, absent: bool) -> None:
        status = reply.status
        if 200 <= status < 300 or (absent and status in (404, 405, 501)):
            return
        line, advice = first_line(reply.content), self.advice if status in _OF_THE_BODY else ""
        if 300 <= status < 400:
            there = urlsplit(reply.headers.get("Location", ""))
            raise RunError(
                self._told(url, f"leads on to {there.scheme}://{there.netloc}{there.path} (status {status}), which is not "
                "followed: give that address if it is the right one.")
            )  # fmt: skip
        if status in _AGAIN or status >= 500:
            wait = _retry_after(reply.headers.get("Retry-After"))
            if wait is not None and wait > PATIENCE:
                raise RunError(
                    self._told(url, f"asks to wait {wait:.0f} s (status {status}, {line!r}); {GOES_ON}, later.")
                )
            raise _AgainError(f"answered with status {status} ({line!r})", str(status), wait, advice)
        advice = f"; {advice}" if advice else ""
        raise RunError(
            self._told(
                url, f"refused the request with status {status}: {line!r}; {GOES_ON} once that is mended{advice}."
            )
        )

    def _wait(self, attempt: int, asked: float | None) -> None:
        if asked is not None:
            self._pace.pause(asked)  # for all: one that is told to slow down is told for the others too
        longest = min(_LONGEST_WAIT, self._settings.backoff * 2 ** (attempt - 1))
        jitter = random.uniform(0.5, 1) * longest
        self._sleep(max(jitter, asked or 0.0))

    def _sleep(self, seconds: float) -> None:
        if self.stop.wait(seconds) if seconds > 0 else self.stop.is_set():
            raise Stopped

    def _told(self, url: str, what: str) -> str:
        return self._secrets.hidden(f"{url.partition('?')[0]}: {what}")


def _pool(settings: Settings) -> urllib3.PoolManager:
    """With the proxy that the environment names for this host."""
    options = {
        "maxsize": settings.in_flight,
        "block": True,
        "retries": False,
        "timeout": urllib3.Timeout(connect=min(10.0, settings.timeout), read=settings.timeout),
    }
    parts = urlsplit(settings.url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname or ""):
        return urllib3.ProxyManager(proxy if "://" in proxy else f"http://{proxy}", **options)
    return urllib3.PoolManager(**options)


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number of them or from a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
