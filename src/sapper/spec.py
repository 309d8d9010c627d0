"""What a run was asked to do, as it stands in spec.toml."""

import hashlib
import shlex

import msgspec

from sapper.errors import RunError


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False):
    """Everything the rows of a run depend on; two runs of one spec have the same rows."""

    model: str
    """As the user wrote it; `model_digest` says which weights that was."""
    weights: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: tuple[int, int] | None = None
    trust_types: tuple[str, ...] | None = None
    trust_pickle: bool | None = None
    """Null where it is not said, as before there was such a choice."""
    via: tuple[str, ...] | None = None
    """Substitutes that attacks are shown in place of the model, which then judges."""
    data: str
    split: str = "test"
    bounds: tuple[float, float] = (0.0, 1.0)
    limit: int | None = None
    goal: str = "misclassification"
    threats: tuple[str, ...]
    attacks: tuple[str, ...]
    seed: int = 0
    quantize: int | None = None
    queries: int | None = None
    batch_size: int | None = None
    """Rows at once; measured where not given."""
    doctor: bool = True
    """Models that hide their gradients are attacked with remedies, and what held is probed."""
    model_digest: str = ""
    via_digest: str | None = None
    data_digest: str = ""

    def plain(self) -> dict[str, object]:
        """For spec.toml, which has no null: what was not given is left out."""
        return {key: value for key, value in msgspec.to_builtins(self).items() if value is not None}

    def digest(self) -> str:
        """Eight letters that name this spec."""
        return hashlib.sha256(msgspec.json.encode(self.plain(), order="sorted")).hexdigest()[:8]


def from_plain(values: dict[str, object]) -> Spec:
    """The spec in a spec.toml.

    Raises:
        RunError: An unknown key, or a value of the wrong type.
    """
    try:
        return msgspec.convert(values, Spec)
    except msgspec.ValidationError as error:
        raise RunError(f"spec.toml is not one that this version reads: {error}.") from error


def differences(first: Spec, second: Spec) -> list[str]:
    """Where two specs differ, a line each."""
    one, two = first.plain(), second.plain()
    return [
        f"{key}: {one.get(key)} there, {two.get(key)} here" for key in {**one, **two} if one.get(key) != two.get(key)
    ]


def command(spec: Spec, budget: int | None = None, rate: float | None = None) -> str:
    """The command line that asks for this spec, of an endpoint with these rows and requests a second at most."""
    words = ["sapper", "audit", spec.model, "--data", spec.data]
    for substitute in spec.via or ():
        words += ["--via", substitute]
    for threat in spec.threats:
        words += ["--threat", threat]
    for attack in spec.attacks:
        words += ["--attack", attack]
    plain, default = spec.plain(), Spec(model="", data="", threats=(), attacks=()).plain()
    for key in (
        "weights",
        "mean",
        "std",
        "resize",
        "trust_types",
        "trust_pickle",
        "split",
        "bounds",
        "limit",
        "goal",
        "seed",
        "quantize",
        "queries",
        "batch_size",
    ):
        if key in plain and plain[key] != default.get(key):
            value = plain[key]
            values = value if isinstance(value, list | tuple) else [value]
            words += [f"--{key.replace('_', '-')}", *(str(one) for one in values if one is not True)]
    for name, value in (("--budget", budget), ("--rate", rate)):
        words += [name, str(value)] if value is not None else []
    return shlex.join(words if spec.doctor else [*words, "--no-doctor"])
