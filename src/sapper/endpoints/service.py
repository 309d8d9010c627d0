"""How rows become requests, and answers rows: what the protocols compile to.

A row is written once, as the very bytes that stand for it in a request; by their digest the store knows it again.
"""

import base64
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from PIL import Image

from sapper.errors import DataError

Answer = list[float] | float | int | str
"""One row's: scores, the probability of the second of two classes, or a label. A whole number may be either of these."""


class BadAnswerError(Exception):
    """An answer that is none; another try may get a better one."""

    def __init__(self, what: str, advice: str = "") -> None:
        """Args:
        advice: What to do where no try does.
        """
        super().__init__(what)
        self.advice = advice


@dataclass(frozen=True)
class Encoding:
    """From an array to the JSON that stands for it."""

    kind: Literal["array", "flat", "bare", "png", "jpeg"] = "array"
    """Nested lists, one list, the numbers without brackets, or a picture in base64."""
    channels_last: bool = False
    scale: float | None = None
    whole: bool = False
    """Features are rounded to whole numbers."""

    def __call__(self, x: np.ndarray) -> list[bytes]:
        """Rows first; a sample of three dimensions has its channels first.

        Raises:
            DataError: A picture of anything but one or three channels.
        """
        is_picture = self.kind in ("png", "jpeg")
        wide = x.astype(np.float64)  # exact, so that the endpoint is asked about these very numbers
        scale = self.scale or (255.0 if is_picture or self.whole else 1.0)
        wide = wide * scale if scale != 1 else wide
        if x.ndim == 4 and (self.channels_last or is_picture):
            wide = wide.transpose(0, 2, 3, 1)
        if is_picture:
            return [self._picture(row) for row in np.rint(wide).clip(0, 255).astype(np.uint8)]
        wide = np.rint(wide).astype(np.int64) if self.whole else wide
        lists = (wide if self.kind == "array" else wide.reshape(len(x), -1)).tolist()
        texts = [msgspec.json.encode(row) for row in lists]
        return [text[1:-1] for text in texts] if self.kind == "bare" else texts

    def _picture(self, pixels: np.ndarray) -> bytes:
        if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3)):
            raise DataError(
                f"expected pictures of one or three channels to encode as {self.kind}, got an input of shape {pixels.shape}."
            )
        file = io.BytesIO()
        picture = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
        picture.save(file, self.kind, **({"quality": 95} if self.kind == "jpeg" else {}))
        return b'"' + base64.b64encode(file.getvalue()) + b'"'


Reader = Callable[[object, int], list[Answer]]
"""From the decoded answer and the number of rows asked to an answer a row.

Raises:
    BadAnswerError: It is not what was asked for.
"""


@dataclass(frozen=True)
class Service:
    """One endpoint, as its protocol has it."""

    url: str
    """Where rows are posted; tokens by their names."""
    body: str
    """JSON with $rows or $input, and $count for the number of rows."""
    row: str
    encoding: Encoding
    read: Reader
    description: str
    input_shape: tuple[int, ...] | None = None
    identity: bytes = b""
    """What the protocol has found beside the settings that answers depend on."""
    advice: str = ""
    """What may be wrong where the endpoint refuses, or fails at, whatever is asked."""

    @property
    def is_single(self) -> bool:
        """A request holds one row."""
        return "$rows" not in self.body

    def inputs(self, x: np.ndarray) -> list[bytes | None]:
        """The bytes of each row; None for one that is not finite, which JSON cannot say."""
        finite = np.logical_and.reduce(np.isfinite(x.reshape(len(x), -1)), axis=1)
        before, _, after = self.row.partition("$input")
        texts = iter(self.encoding(x[finite]))
        return [before.encode() + next(texts) + after.encode() if good else None for good in finite.tolist()]

    def request(self, inputs: list[bytes]) -> bytes:
        before, _, after = self.body.replace("$count", str(len(inputs))).partition(
            "$input" if self.is_single else "$rows"
        )
        return before.encode() + b",".join(inputs) + after.encode()


def key_of(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def decoded(content: bytes) -> object:
    """Raises:
    BadAnswerError: It is no JSON.
    """
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return json.loads(content)  # which knows the nan that Python's servers write
    except (ValueError, RecursionError):
        start = first_line(content)
        raise BadAnswerError(f"answered with what is no JSON: {start!r}") from None


def first_line(content: bytes) -> str:
    text = content[:2000].decode("utf-8", "replace").strip()
    return (text.splitlines() or ["nothing"])[0][:200]


def row_answer(value: object) -> Answer:
    """A row's answer as it stands in JSON: a list of scores; or a label or probability, by itself or as a list's only entry.

    Raises:
        BadAnswerError: It is none of these, or has scores that are not finite.
    """
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list) and len(value) > 1 and all(type(score) in (int, float) for score in value):
        if not np.isfinite(np.array(value, np.float64)).all():
            raise BadAnswerError("answered with scores that are nan or infinite")
        return [float(score) for score in value]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and 0 < value < 1:
        return value
    known = "; one number a row is a label, or a probability from 0 to 1" if isinstance(value, float) else ""
    raise BadAnswerError(f"answered with {json.dumps(value)[:80]} where a row's scores or label were expected{known}")


def row_answers(value: object, count: int) -> list[Answer]:
    """Of an answer that is a list with an entry a row.

    Raises:
        BadAnswerError: It is not.
    """
    if not isinstance(value, list):
        raise BadAnswerError(f"answered with {json.dumps(value)[:80]} where a list of {count} rows was expected")
    if len(value) != count:
        raise BadAnswerError(f"answered for {len(value)} rows where {count} were asked")
    return [row_answer(one) for one in value]
