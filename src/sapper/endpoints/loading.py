"""From what the user writes to an endpoint that knows what it answers with."""

import pkgutil
from collections.abc import Sequence
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
from sapper.endpoints.service import Answer, BadAnswerError
from sapper.endpoints.settings import Settings, read_settings
from sapper.endpoints.store import Store, file_name
from sapper.errors import ModelError, RunError, unknown
from sapper.names import slug


def load_endpoint(reference: str, like: Data | None, terms: Terms) -> tuple[Endpoint, bool]:
    """An endpoint, and whether its scores are probabilities.

    Args:
        reference: An address, or a TOML file.
        like: Some samples that it is for, which are asked to see what the answers are.
        terms: On which it is asked.

    Raises:
        ModelError: It speaks no known protocol, or its answers are not a classifier's.
        RunError: It does not answer.
        UsageError: A token or an option that does not fit.
    """
    settings = read_settings(reference)
    client = Client(settings, terms.rate)
    service = _protocol(settings).service(settings, client.get, like.shape if like else None)
    identity = msgspec.json.encode([settings.identity(), service.identity], order="sorted")
    folder, name = cache() / "endpoints", slug(urlsplit(settings.url).netloc)
    about = {"url": settings.url, "description": service.description}
    endpoint = Endpoint(settings, service, client, Store(folder / file_name(name, identity), about), terms)
    answers = _first_answers(endpoint, like)
    endpoint.kind = _kind(settings, answers, like)
    _check_classes(endpoint, like)
    try:
        for answer in answers:
            endpoint.kind.check(answer)
    except BadAnswerError as error:
        raise ModelError(f"{settings.url}: {error}.") from None
    return endpoint, bool(endpoint.kind.single) or _are_probabilities(settings, answers)


def _check_classes(endpoint: Endpoint, like: Data | None) -> None:
    """Raises:
    ModelError: There are fewer than the samples' labels need.
    """
    classes = endpoint.kind.classes if endpoint.kind else None
    if like is None or classes is None or int(like.y.max()) < classes:
        return
    raise ModelError(
        f"{endpoint.settings.url}: expected answers of at least {int(like.y.max()) + 1} classes, as the data have, got "
        f"{classes}: give the model's own data; if the endpoint was out of order when it was first asked, delete its ledger "
        f"{endpoint.store.path}, which answers in its place."
    )


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
    if like is None:
        return []
    found = endpoint.answers(like.x.numpy())
    answers = [answer for answer in found if answer is not None]
    if not answers:
        raise RunError(f"the budget of {endpoint.terms.budget} rows is spent before the audit begins: give more.")
    return answers


def _kind(settings: Settings, answers: Sequence[Answer], like: Data | None) -> Kind:
    names = settings.classes if isinstance(settings.classes, tuple) else None
    told = len(names) if names else settings.classes
    assert told is None or isinstance(told, int)
    if not settings.labels and _are_single(settings, answers):
        if told not in (None, 2):
            raise ModelError(
                f"{settings.url}: expected two classes, as one probability a row is the second's, got {told}."
            )
        return Kind("scores", names, 2, single=True)
    if settings.labels or (answers and not isinstance(answers[0], list)):
        given = max([len(like.classes), *(one + 1 for one in answers if isinstance(one, int))]) if like else None
        if (classes := told or given) is None:
            raise ModelError(f"{settings.url}: expected the number of classes for an endpoint that answers with labels: "
                             "give a TOML file with classes = …, or data.")  # fmt: skip
        return Kind("labels", names or (like.classes if like else None), max(2, classes))
    if not answers and not settings.scores:
        raise ModelError(f"{settings.url}: expected data, or a TOML file that says scores or labels.")
    if not answers:
        return Kind("scores", names, told, single=None if settings.probabilities else False)
    return Kind("scores", names, told or (len(answers[0]) if isinstance(answers[0], list) else None))


def _are_single(settings: Settings, answers: Sequence[Answer]) -> bool:
    """Whether answers are one probability a row: the user says so of numbers, or some are not whole, as labels are."""
    if not answers or settings.probabilities is False or not all(isinstance(one, int | float) for one in answers):
        return False
    return bool(settings.probabilities) or any(isinstance(one, float) for one in answers)


def _are_probabilities(settings: Settings, answers: Sequence[Answer]) -> bool:
    if settings.probabilities is not None:
        return settings.probabilities
    scores = [one for one in answers if isinstance(one, list)]
    if not scores:
        return False
    array = np.array(scores)
    return bool(((array >= 0) & (array <= 1)).all()) and bool(np.abs(array.sum(1) - 1).max() < 1e-3)
