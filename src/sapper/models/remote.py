"""Models behind HTTP, as modules that are asked by requests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from torch import nn

from sapper import disk, log
from sapper.data.dataset import Data
from sapper.endpoints.endpoint import Endpoint, Terms
from sapper.endpoints.loading import load_endpoint
from sapper.foreign import Foreign
from sapper.models.model import Network


def load_remote(reference: str, like: Data | None, terms: Terms | None, least: int = 0) -> Network:
    """An address, or a TOML file that describes an endpoint; for the errors see `load_endpoint`."""
    endpoint, probabilities = load_endpoint(reference, like, terms or Terms(), least)
    kind, service = endpoint.kind, endpoint.service
    assert kind.access is not None
    module = Foreign(endpoint, kind.access, kind.classes, probabilities=probabilities, may_be_silent=True)
    return Network(
        module, service.description, service.input_shape, kind.classes, program=endpoint.store.path.name.encode()
    )


def endpoint_of(module: nn.Module) -> Endpoint | None:
    """The endpoint behind a module, itself or what it wraps."""
    asked = (part.ask for part in module.modules() if isinstance(part, Foreign))
    return next((ask for ask in asked if isinstance(ask, Endpoint)), None)


def write_queries(folder: Path, endpoint: Endpoint) -> None:
    """The own part of a run or theft in the endpoint's ledger."""
    sent = [(at, key.hex(), asking, answer, answered) for at, key, asking, answer, answered in endpoint.rows()]
    disk.write_table(folder / "queries.parquet", pl.DataFrame(sent, schema=log.QUERY, orient="row"))
    disk.write_json(folder / "endpoint.json", endpoint.usage())


@contextmanager
def asked_again(module: nn.Module) -> Iterator[None]:
    """Its endpoint is asked for second answers to what the ledger knows, each row in a request of its own."""
    asked = [(part, part.ask) for part in module.modules() if isinstance(part, Foreign)]
    try:
        for part, ask in asked:
            part.ask = ask.again if isinstance(ask, Endpoint) else ask
        yield
    finally:
        for part, ask in asked:
            part.ask = ask
