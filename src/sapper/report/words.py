"""Numbers, classes and threats in words."""

from collections.abc import Sequence
from dataclasses import dataclass

NONE = "–"
THIN = "\u202f"  # narrow no-break space: between a number and its unit, and between thousands

NORMS = {"l0": "L0", "l1": "L1", "l2": "L2", "linf": "L∞"}


def percent(share: float | None) -> str:
    """One decimal; 0 and 100 only where nothing and all are meant."""
    if share is None:
        return NONE
    if share in (0, 1):
        return f"{100 * share:.0f}{THIN}%"
    sign, size = "−" if share < 0 else "", abs(share)
    if size < 0.0005:
        return f"{sign}<0.1{THIN}%"
    return f">99.9{THIN}%" if 0.9995 < share < 1 else f"{sign}{100 * size:.1f}{THIN}%"


def interval(ends: tuple[float, float] | None) -> str:
    return NONE if ends is None else f"{100 * ends[0]:.1f} – {100 * ends[1]:.1f}{THIN}%"


def number(value: float | None) -> str:
    """Three significant digits; whole numbers and thousands in full."""
    if value is None or value != value:
        return NONE
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", THIN)
    return f"{value:.1e}" if abs(value) < 1e-4 else f"{value:.3g}"


def plural(count: int, one: str, many: str = "") -> str:
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def class_name(index: int | None, names: Sequence[str] | None) -> str:
    if index is None:
        return NONE
    return names[index] if names and 0 <= index < len(names) else str(index)


@dataclass(frozen=True)
class Budget:
    """A threat as written, taken apart."""

    norm: str
    amount: str

    @classmethod
    def parse(cls, threat: str) -> "Budget":
        norm, _, amount = threat.partition(":")
        return cls(norm, amount)

    @property
    def is_minimal(self) -> bool:
        """No budget: the smallest change that succeeds is what is asked for."""
        return self.amount == "min"

    @property
    def in_features(self) -> bool:
        return self.norm == "l0"

    @property
    def unit(self) -> str:
        return "features changed" if self.in_features else NORMS.get(self.norm, self.norm)

    def when(self, shape: tuple[int, ...]) -> str:
        """The clause that says what the attacker may do, without "when"."""
        things, amount = feature_word(shape), self.amount.replace("%", f"{THIN}%")
        if self.is_minimal:
            return "changes may be of any size"
        match self.norm:
            case "linf":
                return f"{things} may change by up to {amount}"
            case "l2":
                return f"the whole change may be up to {amount} long (L2)"
            case "l1":
                return f"the changes may add up to {amount} (L1)"
            case "l0" if amount.endswith("%"):
                return f"{amount} of the {things} may change freely"
            case "l0":
                return f"{amount} {things} may change freely"
            case _:
                return f"changes stay within {self.norm}:{amount}"


def is_image(shape: tuple[int, ...]) -> bool:
    """Of one sample: (H, W), (1, H, W) or (3, H, W)."""
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))


def feature_word(shape: tuple[int, ...]) -> str:
    if not is_image(shape):
        return "features"
    return "colour values" if len(shape) == 3 and shape[0] == 3 else "pixels"


def distance(value: float | None, budget: Budget, features: int) -> str:
    """A distance with its unit; in features also as their share, the papers' unit."""
    if value is None or value != value:
        return NONE
    if budget.in_features:
        return f"{plural(round(value), 'feature')} ({percent(value / features)})"
    return f"{number(value)} in {budget.unit}"
