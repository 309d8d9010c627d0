"""Switches on the shape checks (jaxtyping with beartype) before sapper is imported, and makes hypothesis repeatable."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # for `toys`

_checker = ModuleType("sapper_test_checker")
_checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for the type checker
sys.modules[_checker.__name__] = _checker
jaxtyping.install_import_hook("sapper", f"{_checker.__name__}.check")

settings.register_profile("sapper", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("sapper")


@pytest.fixture
def as_a_user() -> Iterator[None]:
    """Without the shape checks, so that a wrong argument meets sapper's own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
