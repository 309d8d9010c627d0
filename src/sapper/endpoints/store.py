"""The ledger of an endpoint: every row that was sent, every answer, every request; on disk, so that none is paid for twice.

One SQLite file an endpoint, in the user's cache, shared by all runs. Nothing in it is ever deleted, or changed but for the
count of what each account has sent, and for answers that do not go with the others, which are asked again. A row is noted
before it is sent and its answer as soon as it is there, each in a transaction, so a kill loses at most what was on its way.
"""

import hashlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sapper.endpoints.service import Answer
from sapper.errors import RunError

_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS sent (
    account TEXT, input BLOB, nth INTEGER, at REAL, PRIMARY KEY (account, input, nth)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS charged (account TEXT PRIMARY KEY, row_count INTEGER);
CREATE TABLE IF NOT EXISTS answers (
    input BLOB, nth INTEGER, answer TEXT NOT NULL, at REAL, PRIMARY KEY (input, nth)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requests (account TEXT, at REAL, row_count INTEGER, attempt INTEGER, seconds REAL, outcome TEXT);
CREATE TABLE IF NOT EXISTS askings (run TEXT PRIMARY KEY, nth INTEGER);
CREATE TABLE IF NOT EXISTS known (account TEXT, at REAL, row_count INTEGER);
CREATE INDEX IF NOT EXISTS by_account ON requests (account);
"""
_AT_ONCE = 500
"""Keys in one statement; SQLite takes at least 999 values."""

Row = tuple[float, bytes, int, str | None, float | None]
"""Sent at, SHA-256 of the row, which asking it was (0 is the first), its answer as JSON, answered at."""


class Count(msgspec.Struct, frozen=True):
    """What one account has used."""

    sent: int
    """Rows, each once."""
    answered: int
    requests: int
    retried: int
    """Requests that were made again."""
    known: int
    """Rows that were answered from the ledger."""


class Store:
    """Safe for threads, and for processes side by side."""

    def __init__(self, path: Path, about: dict[str, str]) -> None:
        """Raises:
        RunError: The file cannot be written.
        """
        self.path = path
        self._lock = threading.RLock()
        self._noted: list[tuple[str, float, int, int, float, str]] = []
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            self._base.executescript(_TABLES)
            self._base.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", about.items())

    def close(self) -> None:
        with self._lock:
            self._base.close()

    def answers(self, keys: Sequence[bytes], nth: int = 0) -> dict[bytes, Answer]:
        """Those that are known."""
        found = self._among("SELECT input, answer FROM answers WHERE nth = ? AND input IN ({})", keys, nth)
        return {key: msgspec.json.decode(text) for key, text in found}

    def some(self, count: int) -> list[Answer]:
        """First answers to rows that are as good as drawn: they lie in the order of their digests."""
        with self._lock, self._told():
            found = self._base.execute("SELECT answer FROM answers WHERE nth = 0 LIMIT ?", (count,)).fetchall()
        return [msgspec.json.decode(text) for (text,) in found]

    def sent(self, account: str, keys: Sequence[bytes], nth: int = 0) -> set[bytes]:
        """Those that this account has been charged with."""
        found = self._among(
            "SELECT input FROM sent WHERE account = ? AND nth = ? AND input IN ({})", keys, account, nth
        )
        return {key for (key,) in found}

    def send(self, account: str, keys: Sequence[bytes], nth: int, budget: int | None) -> bool:
        """Charges the account with rows that it has not been charged with; False, and nothing done, beyond the budget."""
        now = time.time()
        with self._transaction():
            before = self._base.total_changes
            self._base.executemany(
                "INSERT OR IGNORE INTO sent VALUES (?, ?, ?, ?)", [(account, key, nth, now) for key in keys]
            )
            (charged,) = self._base.execute(
                "INSERT INTO charged VALUES (?1, ?2) "
                "ON CONFLICT DO UPDATE SET row_count = row_count + ?2 RETURNING row_count",
                (account, self._base.total_changes - before),
            ).fetchone()
            if budget is not None and charged > budget:
                self._base.execute("ROLLBACK")
                return False
        return True

    def asking(self, run: str) -> int:
        """Which asking, after the first, is this run's own; the same whenever it goes on."""
        with self._transaction():
            self._base.execute(
                "INSERT OR IGNORE INTO askings SELECT ?, 1 + COALESCE((SELECT MAX(nth) FROM askings), "
                "(SELECT MAX(nth) FROM answers), 0)",
                (run,),
            )
        return self._one("SELECT nth FROM askings WHERE run = ?", run)

    def last_asking(self, account: str) -> int:
        """The last that the account has been charged with; 0 where there is none but the first."""
        return self._one("SELECT COALESCE(MAX(nth), 0) FROM sent WHERE account = ?", account)

    def rename(self, run: str, name: str) -> None:
        """The run is called otherwise from now on; nothing where there is none of this name."""
        with self._transaction():
            self._base.execute("UPDATE OR REPLACE askings SET run = ? WHERE run = ?", (name, run))

    def charged(self, account: str) -> int:
        return self._one("SELECT COALESCE(SUM(row_count), 0) FROM charged WHERE account = ?", account)

    def save(self, answers: dict[bytes, Answer], nth: int = 0) -> None:
        now = time.time()
        rows = [(key, nth, msgspec.json.encode(answer).decode(), now) for key, answer in answers.items()]
        with self._transaction():
            self._base.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", rows)

    def note_request(self, account: str, rows: int, attempt: int, seconds: float, outcome: str) -> None:
        """Written along with what is written next."""
        with self._lock:
            self._noted.append((account, time.time(), rows, attempt, seconds, outcome))

    def note_known(self, account: str, rows: int) -> None:
        with self._transaction():
            self._base.execute("INSERT INTO known VALUES (?, ?, ?)", (account, time.time(), rows))

    def count(self, account: str) -> Count:
        with self._transaction():
            pass  # but what was noted
        return Count(
            sent=self.charged(account),
            answered=self._one("SELECT COUNT(*) FROM sent JOIN answers USING (input, nth) WHERE account = ?", account),
            requests=self._one("SELECT COUNT(*) FROM requests WHERE account = ?", account),
            retried=self._one("SELECT COUNT(*) FROM requests WHERE account = ? AND attempt > 1", account),
            known=self._one("SELECT COALESCE(SUM(row_count), 0) FROM known WHERE account = ?", account),
        )

    def rows(self, account: str) -> list[Row]:
        """All that this account has sent, in order."""
        with self._lock, self._told():
            return self._base.execute(
                "SELECT sent.at, input, nth, answer, answers.at FROM sent LEFT JOIN answers USING (input, nth) "
                "WHERE account = ? ORDER BY sent.at, input",
                (account,),
            ).fetchall()

    def _among(self, query: str, keys: Sequence[bytes], *values: object) -> Iterator[tuple]:
        for start in range(0, len(keys), _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            with self._lock, self._told():
                yield from self._base.execute(query.format(",".join("?" * len(part))), (*values, *part)).fetchall()

    def _one(self, query: str, value: str) -> int:
        with self._lock, self._told():
            return self._base.execute(query, (value,)).fetchone()[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._told():
            self._base.execute("BEGIN IMMEDIATE")
            noted, self._noted = self._noted, []
            try:
                self._base.executemany("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?)", noted)
                yield
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise
            if self._base.in_transaction:
                self._base.execute("COMMIT")
            else:
                self._noted += noted

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RunError(
                f"cannot keep the ledger of queries in {self.path}: {error}. Make room, or set SAPPER_CACHE to a folder that "
                "can be written, then run the same command."
            ) from error


def file_name(name: str, identity: bytes) -> str:
    return f"{name[:60]}-{hashlib.sha256(identity).hexdigest()[:12]}.sqlite"
