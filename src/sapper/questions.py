"""How many questions the training of a substitute asks, round by round: the papers' arithmetic. No torch."""

from dataclasses import dataclass

from sapper.errors import UsageError, require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How many inputs each augmentation adds, and how far it goes. Augmentations count from 0.

    Counted as if no two inputs coincided; those that do are asked about once (see `sapper.theft`).
    """

    step_size: float = 0.1
    """How far, in the data's units (the papers' lambda)."""
    period: int = 3
    """The direction alternates every so many augmentations (tau); 0: never."""
    sigma: int | None = None
    """After so many augmentations only some inputs are moved; None: always all."""
    kappa: int = 400
    """How many these some are."""

    def __post_init__(self) -> None:
        require_positive("step_size", self.step_size)
        require_positive("kappa", self.kappa)
        require_not_negative("period", self.period)
        require_not_negative("sigma", self.sigma or 0)

    def step(self, augmentation: int) -> float:
        """The signed step: (-1)^⌊rho/tau⌋ lambda."""
        turns = augmentation // self.period if self.period else 0
        return (-1) ** turns * self.step_size

    def new(self, augmentation: int, samples: int) -> int:
        """How many inputs are added to so many."""
        every = self.sigma is None or augmentation < self.sigma
        return samples if every else min(samples, self.kappa)

    def questions(self, seeds: int, augmentations: int) -> int:
        """All questions: n 2^rho, or n 2^sigma + kappa (rho - sigma)."""
        return sum(self.rounds(seeds, None, augmentations))

    def rounds(self, seeds: int, most: int | None, augmentations: int | None) -> list[int]:
        """How many questions each round asks, the seeds first, the last as many as are left.

        Args:
            seeds: Inputs to begin with.
            most: Questions in all; one of this and the next is given.
            augmentations: Rounds after the first.
        """
        if most is None and augmentations is None:
            raise UsageError("expected a budget of questions or a number of rounds, got neither.")
        asked = [seeds]
        while augmentations is None or len(asked) <= augmentations:
            wanted = self.new(len(asked) - 1, sum(asked))
            left = wanted if most is None else min(wanted, most - sum(asked))
            if left <= 0:
                break
            asked.append(left)
        return asked
