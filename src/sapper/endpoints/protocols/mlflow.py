"""MLflow's scoring server: rows are posted to /invocations, and answered as `predictions`."""

from sapper.endpoints.service import Answer, BadAnswerError, Encoding, Service, row_answers
from sapper.endpoints.settings import Settings


def speaks(path: str) -> bool:
    return path.rstrip("/").endswith("/invocations")


def service(settings: Settings, get: object, shape: tuple[int, ...] | None) -> Service:
    """MLflow tells nothing of its models over HTTP."""
    encoding = Encoding(settings.encoding, settings.layout == "channels-last", settings.scale)
    return Service(settings.url, '{"inputs": [$rows]}', "$input", encoding, _read, "MLflow model")


def _read(answer: object, count: int) -> list[Answer]:
    if not isinstance(answer, dict) or "predictions" not in answer:
        raise BadAnswerError("answered without predictions, which MLflow's scoring server has")
    return row_answers(answer["predictions"], count)
