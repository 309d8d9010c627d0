"""What programs read: JSON on standard output."""

import sys

import msgspec


def print_json(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
