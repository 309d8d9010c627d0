"""Any service that takes JSON and answers with JSON, by the body, row and path of its TOML file.

body = '{"instances": [$rows]}'          or '{"image": $input}' where a request holds one row
row = '{"b64": $input}'
scores = "predictions[*].probabilities"  or labels = …, in JMESPath
"""

import json

import jmespath
from jmespath.exceptions import JMESPathError

from sapper.endpoints.service import Answer, BadAnswerError, Encoding, Service, row_answer, row_answers
from sapper.endpoints.settings import Settings
from sapper.errors import ModelError


def speaks(path: str) -> bool:
    return False


def service(settings: Settings, get: object, shape: tuple[int, ...] | None) -> Service:
    """Raises:
    ModelError: Body, row or path are missing or wrong.
    """
    path = settings.scores or settings.labels
    if settings.body is None or path is None:
        raise ModelError(
            f"{settings.url}: expected an address ending in /v2/models/NAME or /invocations, or a TOML file with a body and "
            "with scores or labels, as the guide shows."
        )
    try:
        find = jmespath.compile(path)
    except JMESPathError as error:
        raise ModelError(f"{settings.url}: expected a path in JMESPath, got {path!r}: {error}") from error
    _check(settings.body, ("$rows", "$input"), "body")
    _check(settings.row, ("$input",), "row")
    is_single = "$rows" not in settings.body

    def read(answer: object, count: int) -> list[Answer]:
        try:
            value = find.search(answer)
        except JMESPathError as error:
            raise BadAnswerError(f"answered with what {path} does not apply to ({error})") from error
        if value is None:
            raise BadAnswerError(f"answered without {path}: {json.dumps(answer)[:80]}")
        return [row_answer(value)] if is_single else row_answers(value, count)

    encoding = Encoding(settings.encoding, settings.layout == "channels-last", settings.scale)
    return Service(settings.url, settings.body, settings.row, encoding, read, "JSON service")


def _check(text: str, names: tuple[str, ...], what: str) -> None:
    found = sum(text.count(name) for name in names)
    try:
        json.loads(text.replace("$rows", "0").replace("$input", "0").replace("$count", "0"))
    except ValueError as error:
        raise ModelError(f"expected a {what} that is JSON once filled in, got {text!r}: {error}.") from error
    if found != 1:
        raise ModelError(f"expected {' or '.join(names)} once in the {what}, got {text!r}.")
