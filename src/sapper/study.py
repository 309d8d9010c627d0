"""A study reproduces a paper. One file in `studies/`: the paper, and `parts`, functions from a `Lab` to a `Part`.

The frame runs them in order and writes each as it is done, so a study that was stopped goes on.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import msgspec
from msgspec.structs import replace

import sapper.studies
from sapper import log
from sapper.catalogue import names_in
from sapper.citation import Paper
from sapper.claims import Outcome, Part
from sapper.errors import RunError, unknown
from sapper.lab import Lab


class Study(ABC):
    """One paper.

    Class keywords:
        paper: What is reproduced.
        title: In a few words.
        reproduces: Which tables and figures.
        takes: How long each scale takes on 2 cores.
        data: The data set it needs.
    """

    paper: ClassVar[Paper]
    title: ClassVar[str]
    reproduces: ClassVar[str]
    takes: ClassVar[Mapping[str, str]]
    data: ClassVar[str]

    def __init_subclass__(
        cls, *, paper: Paper, title: str, reproduces: str, takes: Mapping[str, str], data: str
    ) -> None:
        cls.paper, cls.title, cls.reproduces, cls.takes, cls.data = paper, title, reproduces, takes, data

    @abstractmethod
    def parts(self) -> Sequence[tuple[str, Callable[[Lab], Part]]]:
        """Name and function of each part, in the paper's order."""


def studies() -> dict[str, type[Study]]:
    """Every study by name: the one `Study` subclass that a module of `sapper.studies` defines."""
    found = {}
    for name in names_in(sapper.studies):
        module = import_module(f"sapper.studies.{name}")
        own = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Study) and v is not Study]
        assert len(own) == 1, f"expected one Study in {module.__name__}"
        found[name] = own[0]
    return found


def find(name: str) -> type[Study]:
    """The study of that name.

    Raises:
        UsageError: There is none.
    """
    found = studies()
    if name not in found:
        raise unknown("study", name, found)
    return found[name]


def run_study(name: str, lab: Lab, command: str) -> Outcome:
    """Runs the parts that are not done yet, and writes study.json last."""
    study = find(name)
    _open(lab, name)
    parts = [_part(lab, number, title, function) for number, (title, function) in enumerate(study().parts(), 1)]
    packages = ("sapper", "torch", "numpy", "scikit-learn")
    outcome = Outcome(
        name=name,
        title=study.title,
        scale=lab.scale,
        command=command,
        paper=study.paper.bibtex(),
        versions={package: version(package) for package in packages},
        parts=parts,
    )
    log.write_json(lab.out / "study.json", outcome)
    return outcome


def _open(lab: Lab, name: str) -> None:
    """Begins the folder, or goes on in one of the same study, scale, data and seed."""
    asked = {"study": name, "scale": lab.scale, "data": lab.data, "seed": lab.seed}
    if not (lab.out / "spec.toml").exists():
        log.write_toml(lab.out / "spec.toml", asked)
    elif (there := log.read_spec(lab.out)) != asked:
        raise RunError(f"{lab.out} holds another study ({there}): give another --out.")


def _part(lab: Lab, number: int, name: str, function: Callable[[Lab], Part]) -> Part:
    path: Path = lab.out / "parts" / f"{number:02}-{name}.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Part)
    lab.console.print(f"{number:2} {name}", highlight=False)
    begin = time.perf_counter()
    part = function(lab)
    part = replace(part, seconds=round(time.perf_counter() - begin, 1))
    log.write_json(path, part)
    return part
