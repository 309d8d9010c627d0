"""From what the user writes to an endpoint that knows what it answers with."""

import pkgutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import msgspec
import numpy as np

from sapper.data.dataset import Data
from sapper.data.files import cache
from sapper.endpoints import protocols
from sapper.endpoints.client import Client
from sapper.endpoints.endpoint import Endpoint, Kind, Terms
from sapper.endpoints.service import Answer
from sapper.endpoints.settings import Settings, read_settings
from sapper.endpoints.store import Store, file_name
from sapper.errors import ModelError, RunError, unknown
from sapper.names import slug

_LOOKED_AT = 200
"""Answers of the ledger that show of which kind they are."""


def load_endpoint(reference: str, like: Data | None, terms: Terms, least: int = 0) -> tuple[Endpoint, bool]:
    """An endpoint, and whether its scores are probabilities.

    Args:
        reference: An address, or a TOML file.
        like: Some samples that it is for, which are asked to see what the answers are.
        terms: On which it is asked.
        least: So many classes the labels of all samples need.

    Raises:
        ModelError: It speaks no known protocol, or its answers are not a classifier's.
        RunError: It does not answer.
        UsageError: A token or an option that does not fit.
    """
    settings = read_settings(reference)
    client = Client(settings, terms.rate)
    service = _protocol(settings).service(settings, client.get, like.shape if like else None)
    client.advice = service.advice
    identity = msgspec.json.encode([settings.identity(), service.identity], order="sorted")
    folder, name = cache() / "endpoints", slug(urlsplit(settings.url).netloc)
    about = {"url": settings.url, "description": service.description}
    store = Store(folder / file_name(name, identity), about)
    endpoint = Endpoint(settings, service, client, store, terms, _expected(settings, like, least))
    answers = _first_answers(endpoint, like)
    return endpoint, bool(endpoint.kind.single) or _are_probabilities(settings, answers)


def _expected(settings: Settings, like: Data | None, least: int) -> Kind:
    """What is known before the first answer, which has to fit it.

    Raises:
        ModelError: The data need more classes than the file says, or neither says enough.
    """
    names = settings.classes if isinstance(settings.classes, tuple) else None
    told = len(names) if names else settings.classes
    assert told is None or isinstance(told, int)
    if told is not None and told < least:
        raise ModelError(
            f"{settings.url}: expected at least {least} classes, as the data's labels need, the file says {told}: mend it, "
            "or give the model's own data."
        )
    if like is None and not (settings.labels or settings.scores):
        raise ModelError(f"{settings.url}: expected data, or a TOML file that says scores or labels.")
    if like is None and settings.labels and told is None:
        raise ModelError(
            f"{settings.url}: expected the number of classes for an endpoint that answers with labels: give a TOML file with "
            "classes = …, or data."
        )
    access = "labels" if settings.labels else "scores" if settings.scores else None
    single = False if settings.labels or settings.probabilities is False else None
    return Kind(access, names or (like.classes if like else None), told, least, single)


def _protocols() -> dict[str, ModuleType]:
    folder = str(Path(protocols.__path__[0]))
    return {info.name: import_module(f"{protocols.__name__}.{info.name}") for info in pkgutil.iter_modules([folder])}


def _protocol(settings: Settings) -> ModuleType:
    """As the user says; else the one whose address this is; else by the template."""
    known = _protocols()
    if settings.protocol is not None:
        if settings.protocol not in known:
            raise unknown("protocol", settings.protocol, known)
        return known[settings.protocol]
    path = urlsplit(settings.url).path
    speaking = [one for one in known.values() if settings.body is None and one.speaks(path)]
    return speaking[0] if speaking else known["template"]


def _first_answers(endpoint: Endpoint, like: Data | None) -> list[Answer]:
    """Those to the samples, of the kind that the ledger knows; else of their commonest, the others being asked again."""
    there = endpoint.store.some(_LOOKED_AT)
    numbers = int if any(isinstance(one, float) for one in there) else ()  # no labels, but probabilities of 0 and 1
    known = [one for one in there if endpoint.kind.fits(one) and not isinstance(one, numbers)]
    if known or like is None:
        endpoint.kind = _settled(endpoint, known)
    if like is None:
        return []
    answers = _some(endpoint, like.x.numpy())
    if known:
        return answers
    endpoint.kind = _settled(endpoint, answers)
    return answers if all(map(endpoint.kind.fits, answers)) else _some(endpoint, like.x.numpy())


def _some(endpoint: Endpoint, rows: np.ndarray) -> list[Answer]:
    """Raises:
    RunError: The budget allows none.
    """
    answers = [answer for answer in endpoint.answers(rows) if answer is not None]
    if not answers:
        raise RunError(f"the budget of {endpoint.terms.budget} rows is spent before the audit begins: give more.")
    return answers


def _settled(endpoint: Endpoint, answers: Sequence[Answer]) -> Kind:
    """The kind that most answers are of."""
    kind, settings = endpoint.kind, endpoint.settings
    lengths = Counter(len(one) if isinstance(one, list) else None for one in answers)
    commonest = lengths.most_common(1)[0][0] if lengths else kind.classes
    are_numbers = bool(answers) and commonest is None
    advice = (
        ""
        if kind.classes
        else (
            f"what it answered before, in {endpoint.store.path}, is of another kind: if that was another model, or out "
            "of order, delete that file"
        )
    )
    if are_numbers and kind.access != "labels" and _are_single(settings, answers):
        if kind.classes not in (None, 2):
            raise ModelError(
                f"{settings.url}: expected two classes, as one probability a row is the second's, got {kind.classes}."
            )
        return replace(kind, access="scores", classes=2, single=True, advice=advice)
    if kind.access == "labels" or are_numbers:
        classes = max(2, kind.classes or len(kind.names or ()))
        return replace(kind, access="labels", classes=classes, single=False, advice=advice)
    single = None if settings.probabilities and not answers else False
    return replace(kind, access="scores", classes=kind.classes or commonest, single=single, advice=advice)


def _are_single(settings: Settings, answers: Sequence[Answer]) -> bool:
    """Whether numbers are one probability a row: the user says so, or some are not whole, as labels are."""
    numbers = [one for one in answers if not isinstance(one, list)]
    if settings.probabilities is False or not all(isinstance(one, int | float) for one in numbers):
        return False
    return bool(settings.probabilities) or any(isinstance(one, float) for one in numbers)


def _are_probabilities(settings: Settings, answers: Sequence[Answer]) -> bool:
    if settings.probabilities is not None:
        return settings.probabilities
    scores = [one for one in answers if isinstance(one, list)]
    if not scores:
        return False
    array = np.array(scores)
    return bool(((array >= 0) & (array <= 1)).all()) and bool(np.abs(array.sum(1) - 1).max() < 1e-3)
