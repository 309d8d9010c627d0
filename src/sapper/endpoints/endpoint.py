"""A model behind HTTP, as a function from rows to answers that asks each row once.

What has been asked before, by this run or any other of this user, is answered from the ledger. The rest goes out in
requests of some rows, several at a time. Where the budget is spent a row has no answer: nan for its scores, -1 for its
label.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import msgspec
import numpy as np

from sapper.endpoints.client import Client, Stopped
from sapper.endpoints.service import Answer, BadAnswerError, Service, key_of
from sapper.endpoints.settings import Settings
from sapper.endpoints.store import Count, Row, Store
from sapper.errors import ModelError, require_positive
from sapper.log import Usage

_WORTH_IT = 8
"""Rows that are not spread over several requests."""


@dataclass(frozen=True)
class Terms:
    """On which an endpoint is asked."""

    account: str = "python"
    """Whose budget it is; a run's own name, which stays the same when it goes on."""
    budget: int | None = None
    """Most rows sent, each counted once, retried or not; answers from the ledger are free."""
    rate: float | None = None
    """Most requests a second, retries included."""

    def __post_init__(self) -> None:
        require_positive("budget", self.budget)
        require_positive("rate", self.rate)


@dataclass(frozen=True)
class Kind:
    """What a row's answer is, or has to be before one is known."""

    access: Literal["labels", "scores"] | None
    """None before it is known."""
    names: tuple[str, ...] | None
    """Of the classes, where labels are told by them."""
    classes: int | None
    least: int = 0
    """So many classes the samples' labels need."""
    single: bool | None = False
    """Whether its scores are one number, the probability of the second of two classes; None: still to be seen."""
    advice: str = ""
    """What to do where the endpoint goes on to answer in another way."""

    def check(self, answer: Answer) -> None:
        """Raises:
        BadAnswerError: It is another kind of answer, or of other classes.
        """
        if self.access == "labels" or (self.access is None and isinstance(answer, int | str)):
            self.label(answer)
            return
        scores = self.scores(answer)
        if self.classes is not None and len(scores) != self.classes:
            raise BadAnswerError(f"answered with {len(scores)} classes where there were {self.classes}", self.advice)
        if len(scores) < self.least:
            raise BadAnswerError(
                f"answered with {len(scores)} classes where the data's labels need {self.least}",
                "give the model's own data",
            )

    def fits(self, answer: Answer) -> bool:
        try:
            self.check(answer)
        except BadAnswerError:
            return False
        return True

    def scores(self, answer: Answer) -> list[float]:
        """One a class.

        Raises:
            BadAnswerError: It is a label, or no probability where one is expected.
        """
        if isinstance(answer, list):
            if self.single:
                raise BadAnswerError(
                    f"answered with {len(answer)} scores where one probability was expected", self.advice
                )
            return answer
        if self.single is False:
            raise BadAnswerError(f"answered with the label {answer!r} where scores were expected", self.advice)
        if isinstance(answer, str) or not 0 <= answer <= 1:
            raise BadAnswerError(f"answered with {answer!r} where a probability from 0 to 1 was expected", self.advice)
        return [1.0 - answer, float(answer)]

    def label(self, answer: Answer) -> int:
        """Raises:
        BadAnswerError: Of no class.
        """
        if isinstance(answer, list):
            raise BadAnswerError(f"answered with {len(answer)} scores where a label was expected", self.advice)
        if isinstance(answer, float):
            raise BadAnswerError(
                f"answered with {answer} where a label was expected",
                "if it is the probability of the second of two classes, say so in a TOML file, probabilities = true (and "
                "scores = … in place of labels = …)",
            )
        text = str(answer)
        if self.names and text in self.names:
            return self.names.index(text)
        number = int(text) if text.isdecimal() else -1
        classes = self.classes or len(self.names or ())
        if not 0 <= number < classes:
            raise BadAnswerError(
                f"answered with the label {answer!r} where one of {classes} classes was expected",
                "name them, or say how many there are, in a TOML file, classes = …",
            )
        return number


class Endpoint:
    """To be called with inputs; `nth` counts how often a row has been asked on purpose (see `again`)."""

    def __init__(
        self, settings: Settings, service: Service, client: Client, store: Store, terms: Terms, kind: Kind
    ) -> None:
        self.settings, self.service, self.terms, self.store = settings, service, terms, store
        self._client = client
        self._threads: ThreadPoolExecutor | None = None
        self.kind = kind
        self.is_spent = False
        """A row has gone without an answer."""
        self._run = terms.account

    def runs_in(self, folder: str, *, is_there: bool) -> None:
        """Whose second answers are asked for: a folder's that is there, or, until it is, of the run that will make it.

        A run that goes on finds those that it has; one that begins where another's folder was deleted asks anew.
        """
        to_be = f"{folder} to be"
        if is_there:
            self.store.rename(to_be, folder)
        self._run = folder if is_there else to_be

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Labels (rows,) or scores (rows, classes)."""
        return self._array(self.answers(x))

    def again(self, x: np.ndarray) -> np.ndarray:
        """Asks for second answers, each row by itself, past the first ones in the ledger; they are kept and counted too.

        Each run has its own, which show whether the endpoint is still the one that the ledger knows. Where the budget of a
        run that is done again does not reach for them, those it paid for before serve.
        """
        nth = self.store.asking(self._run)
        keys = [key_of(one) for one in self.service.inputs(x) if one is not None]
        if len(self._affordable(keys, nth)) < len(keys):
            nth = self.store.last_asking(self.terms.account) or nth
        return self._array(self.answers(x, nth, rows=1))

    def answers(self, x: np.ndarray, nth: int = 0, rows: int | None = None) -> list[Answer | None]:
        """A row's answer; None where there is none to be had. What the ledger has of another kind is asked again."""
        inputs = self.service.inputs(x)
        keys = [None if one is None else key_of(one) for one in inputs]
        wanted = {key: one for key, one in zip(keys, inputs, strict=True) if key is not None and one is not None}
        known = {key: one for key, one in self.store.answers(list(wanted), nth).items() if self.kind.fits(one)}
        fresh = {key: wanted[key] for key in wanted if key not in known}
        if cached := sum(key in known for key in keys if key is not None):
            self.store.note_known(self.terms.account, cached)
        if fresh:
            known |= self._asked(fresh, nth, rows)
        return [None if key is None else known.get(key) for key in keys]

    def count(self) -> Count:
        return self.store.count(self.terms.account)

    def usage(self) -> Usage:
        return Usage(
            url=self.settings.url, access=self.kind.access or "", ledger=str(self.store.path), budget=self.terms.budget,
            is_spent=self.is_spent, **msgspec.structs.asdict(self.count()),
        )  # fmt: skip

    def rows(self) -> list[Row]:
        return self.store.rows(self.terms.account)

    def told(self) -> str:
        """For a progress bar."""
        most = "" if self.terms.budget is None else f" of {self.terms.budget}"
        return f"{self.store.charged(self.terms.account)}{most} queries"

    def _asked(self, fresh: dict[bytes, bytes], nth: int, rows: int | None) -> dict[bytes, Answer]:
        """The answers of those that the budget allows."""
        keys = self._affordable(list(fresh), nth)
        if len(keys) < len(fresh):
            self.is_spent = True
        most = 1 if self.service.is_single else rows or self.settings.rows
        spread = max(_WORTH_IT, -(-len(keys) // self.settings.in_flight))
        size = most if self.terms.rate else min(most, spread)
        parts = [keys[start : start + size] for start in range(0, len(keys), size)]
        found: dict[bytes, Answer] = {}
        for answers in self._at_once(
            [partial(self._request, {key: fresh[key] for key in part}, nth) for part in parts]
        ):
            found |= answers
        return found

    def _affordable(self, keys: list[bytes], nth: int) -> list[bytes]:
        """The first of them, in order, as far as the budget goes; those that are paid for are among them in any case."""
        if self.terms.budget is None:
            return keys
        paid = self.store.sent(self.terms.account, keys, nth)
        left = self.terms.budget - self.store.charged(self.terms.account)
        unpaid = iter(range(len(keys)))
        return [key for key in keys if key in paid or next(unpaid) < left]

    def _request(self, part: dict[bytes, bytes], nth: int) -> dict[bytes, Answer]:
        account, keys = self.terms.account, list(part)
        if not self.store.send(account, keys, nth, self.terms.budget):
            self.is_spent = True  # another process has spent it
            return {}

        def read(answer: object) -> dict[bytes, Answer]:
            answers = self.service.read(answer, len(keys))
            for one in answers:
                self.kind.check(one)
            return dict(zip(keys, answers, strict=True))

        note = partial(self.store.note_request, account, len(keys))
        answers = self._client.post(self.service.url, self.service.request(list(part.values())), read, note)
        self.store.save(answers, nth)
        return answers

    def _at_once(self, tasks: Sequence[partial[dict[bytes, Answer]]]) -> Iterator[dict[bytes, Answer]]:
        """Runs the tasks side by side; the first error, or Ctrl-C, ends them, once those that are on their way are back."""
        if len(tasks) == 1:
            yield tasks[0]()
            return
        self._threads = self._threads or ThreadPoolExecutor(self.settings.in_flight, thread_name_prefix="endpoint")
        futures = [self._threads.submit(self._or_stop, task) for task in tasks]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            self._client.stop.set()
            raise
        finally:
            if self._client.stop.is_set():
                for one in futures:
                    one.cancel()
                wait(futures)
                self._client.stop.clear()
        errors = [error for one in futures if not one.cancelled() and (error := one.exception())]
        if errors:
            raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])
        yield from (one.result() for one in futures)

    def _or_stop(self, task: partial[dict[bytes, Answer]]) -> dict[bytes, Answer]:
        try:
            return task()
        except BaseException:
            self._client.stop.set()
            raise

    def _array(self, answers: list[Answer | None]) -> np.ndarray:
        if self.kind.access is None:
            raise ModelError("expected an endpoint whose kind of answer is known.")
        if self.kind.access == "labels":
            return np.array([-1 if one is None else self.kind.label(one) for one in answers], np.int64)
        rows = [None if one is None else self.kind.scores(one) for one in answers]
        counts = {len(row) for row in rows if row}
        counts |= {self.kind.classes} if self.kind.classes else set()
        if len(counts) != 1:
            raise ModelError(f"expected answers of one number of classes, got {sorted(counts) or 'no answer'}.")
        (classes,) = counts
        told = [not isinstance(one, list) for one in answers if one is not None]
        single = told[0] if self.kind.single is None and told else self.kind.single
        self.kind = replace(self.kind, classes=classes, single=single)
        return np.array([row or [np.nan] * classes for row in rows], np.float64)
