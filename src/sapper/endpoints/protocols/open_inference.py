"""The Open Inference Protocol, version 2, as KServe, MLServer and Triton speak it: /v2/models/NAME/infer.

The endpoint's metadata name its input, shape and type; where they are silent, rows are sent as FP32 in the data's
shape, or flat if the user says so. Not spoken: the binary tensors that Triton adds to it.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from sapper.endpoints.service import Answer, BadAnswerError, Encoding, Service, row_answer
from sapper.endpoints.settings import Settings
from sapper.errors import ModelError

_PATH = re.compile(r"/v2/models/[^/?]+(/versions/[^/?]+)?")
_WHOLE = ("UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "UINT64", "INT64")
_FLOATS = ("FP16", "FP32", "FP64")


def speaks(path: str) -> bool:
    return _PATH.search(path) is not None


def service(settings: Settings, get: Callable[[str], object], shape: tuple[int, ...] | None) -> Service:
    """Raises:
    ModelError: It has no such address, or takes more than one tensor of numbers.
    """
    found = _PATH.search(settings.url)
    if found is None:
        raise ModelError(f"{settings.url}: expected an address ending in /v2/models/NAME.")
    model, query = settings.url[: found.end()], settings.url.partition("?")[2]
    query = f"?{query}" if query else ""
    told = get(model + query)
    told = told if isinstance(told, dict) else {}
    takes = _input(model, told.get("inputs") or [])
    name, kind = str(takes.get("name", "input-0")), str(takes.get("datatype", "FP32"))
    if settings.encoding in ("png", "jpeg"):
        raise ModelError(
            f"{model}: expected numbers for the Open Inference Protocol, not pictures in {settings.encoding}."
        )
    if kind not in (*_WHOLE, *_FLOATS):
        raise ModelError(f"{model}: expected an endpoint that takes numbers, got one that takes {kind}.")
    sides, last = _fitting(model, tuple(takes.get("shape", ()))[1:], shape, settings)
    head = {"name": name, "datatype": kind}
    outputs = {"outputs": [{"name": settings.output}]} if settings.output else {}
    text = msgspec.json.encode({"inputs": [head | {"shape": ["$count", *sides], "data": "$rows"}], **outputs}).decode()
    body = text.replace('"$count"', "$count").replace('"$rows"', "[$rows]")
    encoding = Encoding("bare", last, settings.scale, whole=kind in _WHOLE)
    advice = (
        "its metadata name no inputs, so rows are sent in the data's shape: if it wants them flat, as scikit-learn's models "
        'do, give a TOML file with this url and encoding = "flat"'
        if not takes and len(sides) > 1
        else ""
    )
    identity = msgspec.json.encode({key: told.get(key) for key in ("versions", "platform", "inputs")}, order="sorted")
    return Service(
        f"{model}/infer{query}", body, "$input", encoding, _reader(settings.output),
        f"{told.get('platform') or 'model'} behind the Open Inference Protocol",
        None if last or not takes.get("shape") or any(side < 1 for side in takes["shape"][1:]) else shape, identity, advice,
    )  # fmt: skip


def _input(model: str, inputs: list[Any]) -> dict[str, Any]:
    if len(inputs) > 1:
        names = ", ".join(str(one.get("name")) for one in inputs)
        raise ModelError(f"{model}: expected an endpoint of one input, got {names}.")
    return inputs[0] if inputs else {}


def _fitting(
    model: str, wanted: tuple[int, ...], shape: tuple[int, ...] | None, settings: Settings
) -> tuple[tuple[int, ...], bool]:
    """The shape a row is sent in, and whether its channels go last."""
    if shape is None:
        if not wanted or any(side < 1 for side in wanted):
            raise ModelError(f"{model}: expected metadata with the shape of its input, got none: give the data too.")
        return wanted, settings.layout == "channels-last"
    turned, size = (*shape[1:], shape[0]) if len(shape) == 3 else shape, math.prod(shape)
    if not wanted:
        last = settings.layout == "channels-last"
        return (size,) if settings.encoding == "flat" else turned if last else shape, last
    if _takes(wanted, shape):
        return shape, False
    if _takes(wanted, turned):
        return turned, True
    if len(wanted) == 1 and wanted[0] in (-1, size):
        return (size,), settings.layout == "channels-last"
    raise ModelError(
        f"{model}: expected data of shape {wanted}, as the endpoint's metadata say, got {shape}: give data of its kind, or "
        "--resize HEIGHT WIDTH."
    )


def _takes(wanted: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(wanted) == len(shape) and all(side in (-1, there) for side, there in zip(wanted, shape, strict=True))


def _reader(output: str | None) -> Callable[[object, int], list[Answer]]:
    def read(answer: object, count: int) -> list[Answer]:
        outputs = answer.get("outputs") if isinstance(answer, dict) else None
        if not isinstance(outputs, list) or not outputs or not all(isinstance(one, dict) for one in outputs):
            raise BadAnswerError("answered without outputs, which the Open Inference Protocol has")
        chosen = [one for one in outputs if output in (None, one.get("name"))]
        if not chosen:
            raise BadAnswerError(f"answered without the output {output}")
        return _rows(chosen[0], count)

    return read


def _rows(tensor: dict[str, Any], count: int) -> list[Answer]:
    """A tensor's rows, whose numbers stand in one list, or nested."""
    shape, data = tensor.get("shape"), tensor.get("data")
    if not isinstance(shape, list) or not isinstance(data, list) or not all(type(side) is int for side in shape):
        raise BadAnswerError("answered with an output that has no shape or no data")
    if not shape or shape[0] != count:
        raise BadAnswerError(f"answered for {shape[0] if shape else 0} rows where {count} were asked")
    try:
        values = np.array(data, dtype=object).reshape(count, -1)
    except ValueError:
        raise BadAnswerError(f"answered with an output whose data do not fit its shape {shape}") from None
    if values.size != math.prod(shape):
        raise BadAnswerError(f"answered with {values.size} numbers where its shape {shape} has {math.prod(shape)}")
    return [row_answer(list(row)) for row in values]
