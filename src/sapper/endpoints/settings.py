"""What the user says of an endpoint: an address, or a small TOML file, and where its tokens are.

A token stands as ${NAME} for the environment's variable of that name. It is put in when a request is made and nowhere else:
what is kept, shown or raised holds the name.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import msgspec

from sapper.errors import ModelError, UsageError, require_not_negative, require_positive

TOKEN = "SAPPER_TOKEN"
"""Sent as `Authorization: Bearer …` to an address that was given without a file."""

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_SECRET = re.compile(
    r"authorization|auth(?!ors?$)|cookie|token(?!s$|iz)|secret|passw|pwd|credential|signature|key$|(^|[^a-z])(code|sig|pass)$",
    re.IGNORECASE,
)
"""In names of headers and of an address's parameters."""
_HEADER = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
_UNSENDABLE = re.compile(r"[^\t\x20-\x7e\xa0-\xff]")
"""Control characters, and what is beyond Latin-1."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The keys of the TOML file."""

    url: str
    protocol: str | None = None
    """A module of `sapper.endpoints.protocols`; recognised by the address where not given."""
    headers: dict[str, str] = {}
    encoding: Literal["array", "flat", "png", "jpeg"] = "array"
    layout: Literal["channels-first", "channels-last"] = "channels-first"
    scale: float | None = None
    """Features are multiplied by it; 255 for pictures and whole numbers where not given, else 1."""
    body: str | None = None
    """JSON in which $rows stands for the rows, with commas between them, or $input for the one that there is."""
    row: str = "$input"
    labels: str | None = None
    """Where the labels are in the answer, in JMESPath; a list of them for a body of $rows."""
    scores: str | None = None
    """Likewise, lists of scores, or one probability a row, of the second of two classes."""
    probabilities: bool | None = None
    classes: int | tuple[str, ...] | None = None
    output: str | None = None
    """Which of an open inference endpoint's outputs to ask for."""
    rows: int = 32
    """Most in one request."""
    in_flight: int = 8
    """Requests at a time."""
    timeout: float = 30.0
    """Seconds without a byte."""
    tries: int = 6
    backoff: float = 0.5
    """Seconds before the first retry; each further one waits twice as long, up to a minute."""

    def __post_init__(self) -> None:
        for name in ("scale", "rows", "in_flight", "timeout", "tries"):
            require_positive(name, getattr(self, name))
        require_not_negative("backoff", self.backoff)
        if (self.labels is not None) and (self.scores is not None):
            raise UsageError("expected labels or scores, got both: an attack makes better use of the scores.")

    def identity(self) -> dict[str, object]:
        """All that answers depend on: what is asked for, not how fast."""
        plain = msgspec.to_builtins(self)
        return {key: value for key, value in plain.items() if key not in _OF_THE_ROAD}


_OF_THE_ROAD = ("rows", "in_flight", "timeout", "tries", "backoff")


def is_reference(reference: str) -> bool:
    """Whether this names an endpoint: an address, or a TOML file."""
    return reference.startswith(("http://", "https://")) or reference.endswith(".toml")


def read_settings(reference: str) -> Settings:
    """Raises:
    ModelError: The file cannot be read, or says what it must not.
    UsageError: An address that is none, or has a password in it; a token that is written out.
    """
    if reference.startswith(("http://", "https://")):
        headers = {"Authorization": f"Bearer ${{{TOKEN}}}"} if os.environ.get(TOKEN, "").strip() else {}
        settings = Settings(url=reference, headers=headers)
    else:
        settings = _read_file(Path(reference).expanduser())
    parts = urlsplit(settings.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"expected an address like https://host/v2/models/name, got {_bare(settings.url)}.")
    if parts.username or parts.password:
        raise UsageError(
            "expected an address without a password: give a TOML file with [headers] whose ${NAME} stand for variables of "
            "the environment."
        )
    _check_parameters(parts.query, parts.fragment)
    _check_headers(settings.headers)
    return settings


def _check_parameters(*queries: str) -> None:
    for part in (part for query in queries for part in re.split("[&;]", query)):
        name, _, value = part.partition("=")
        name = unquote(name)
        if value and _SECRET.search(name) and not _VARIABLE.fullmatch(value):
            raise UsageError(
                f"expected the address to take its {name} from the environment, as in '{name}=${{NAME}}' with export NAME=…, "
                "got one that is written out (in a shell, put the address in single quotes)."
            )


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or _UNSENDABLE.search(value):
            raise UsageError(f"expected a header of one line in Latin-1, got another one: {name!r}.")
        if _SECRET.search(name) and not _VARIABLE.search(value):
            raise UsageError(
                f"expected the header {name} to take its token from the environment, as in 'Bearer ${{TOKEN}}', got one that "
                "is written out."
            )


def _read_file(path: Path) -> Settings:
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Settings)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read: {error}.") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ModelError(f"{path}: expected a TOML file that describes an endpoint; {error}.") from error


def _bare(url: str) -> str:
    """Without what may be secret."""
    return url.partition("?")[0].rpartition("@")[2]


class Secrets:
    """Puts the environment's tokens in, and takes them out of whatever is told."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self._known: dict[str, str] = {}

    def filled(self, text: str) -> str:
        """Raises:
        UsageError: A variable that is not set, or holds what no header can.
        """

        def value(match: re.Match[str]) -> str:
            name = match[1]
            if not (found := self._environment.get(name, "").strip()):  # files of tokens end in a line break
                raise UsageError(
                    f"expected a token in the environment's variable {name}, it is not set: export {name}=…"
                )
            if _UNSENDABLE.search(found):
                raise UsageError(
                    f"expected a token of one line in Latin-1 in the environment's variable {name}, got one with a "
                    f"line break, another control character or a letter beyond: export {name}=… again."
                )
            self._known[found] = name
            return found

        return _VARIABLE.sub(value, text)

    def hidden(self, text: str) -> str:
        for secret, name in self._known.items():
            text = text.replace(secret, f"${{{name}}}")
        return text
