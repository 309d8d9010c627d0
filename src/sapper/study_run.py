"""Runs a study part by part, and writes each as it is done: a study that was stopped goes on."""

import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import msgspec
from msgspec.structs import replace

import sapper.studies
from sapper import disk, log
from sapper.catalogue import names_in
from sapper.claims import Outcome, Part
from sapper.environment import commit
from sapper.errors import DataError, RunError, unknown
from sapper.lab import Lab
from sapper.study import Study


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
    _check_data(lab, study)
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
    disk.write_json(lab.out / "study.json", outcome)
    return outcome


def _check_data(lab: Lab, study: type[Study]) -> None:
    """That all of it is there, and of the shape that the paper's was, before anything is computed."""
    for split in ("test", "train"):
        shape = lab.samples(split, 1).shape
        if study.shape is not None and shape != study.shape:
            raise DataError(
                f"this study is of samples of shape {study.shape}, {lab.data} has {shape}: leave out --data."
            )


def _open(lab: Lab, name: str) -> None:
    """Begins the folder, or goes on in one of the same study, scale, data and seed."""
    asked = {"study": name, "scale": lab.scale, "data": lab.data, "seed": lab.seed}
    if not (lab.out / "spec.toml").exists():
        disk.write_toml(lab.out / "spec.toml", asked)
    elif (there := log.read_spec(lab.out)) != asked:
        raise RunError(f"{lab.out} holds another study ({there}): give another --out.")


def _part(lab: Lab, number: int, name: str, function: Callable[[Lab], Part]) -> Part:
    path = lab.out / "parts" / f"{number:02}-{name}.json"
    if there := _whole(path, lab):
        return there
    lab.console.print(f"{number:2} {name}", highlight=False)
    begin = time.perf_counter()
    part = function(lab)
    part = replace(part, seconds=round(time.perf_counter() - begin, 1), commit=commit() or "")
    disk.write_json(path, part)
    return part


def _whole(path: Path, lab: Lab) -> Part | None:
    """The part as it was written, with its figures; else it is made again."""
    try:
        part = msgspec.json.decode(path.read_bytes(), type=Part)
    except (OSError, msgspec.MsgspecError):
        return None
    return part if all((lab.out / "figures" / figure.file).exists() for figure in part.figures) else None
