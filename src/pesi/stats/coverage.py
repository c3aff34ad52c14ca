"""How often prediction sets hold the true class, and how much they tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from pesi.stats.intervals import effective_count


@dataclass(frozen=True)
class Proportion:
    """A share of some images, with the exact binomial 95 % interval (Clopper and Pearson, Biometrika 26, 1934).

    Attributes:
        successes, trials: Images.
        effective: How many independent images `trials` come to (`effective_count`); None: as many.
    """

    successes: int
    trials: int
    effective: float | None = None

    @property
    def share(self) -> float | None:
        """None where there is no image."""
        return self.successes / self.trials if self.trials else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 %; 0 to 1 where there is no image."""
        if not self.trials:
            return 0.0, 1.0
        count = self.trials if self.effective is None else self.effective
        found = self.successes / self.trials * count  # of an effective number, seldom whole: binomtest takes none
        low = float(beta.ppf(0.025, found, count - found + 1)) if self.successes else 0.0
        return low, float(beta.ppf(0.975, found + 1, count - found)) if self.successes < self.trials else 1.0

    def against(self, wanted: float) -> str:
        """Whether the interval lies "below" or "above" the wanted share, or the share "within" it."""
        low, high = self.interval
        return "below" if high < wanted else "above" if low > wanted else "within"

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"count": self.successes, "of": self.trials, "share": self.share, "ci": list(self.interval)}


@dataclass(frozen=True)
class SetCoverage:
    """How often prediction sets held the true class, and how much they told.

    Attributes:
        overall: Of all images.
        classes: Class name -> of its images.
        mean_size: Classes in a set, on average.
        singletons, empty: Sets of exactly one class, and of none.
        certain_and_right: Of the singletons, those that are the true class.
    """

    overall: Proportion
    classes: dict[str, Proportion]
    mean_size: float
    singletons: Proportion
    empty: Proportion
    certain_and_right: Proportion

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        values: dict[str, Any] = {
            name: part.to_dict() if isinstance(part, Proportion) else part for name, part in vars(self).items()
        }
        return values | {"classes": {name: part.to_dict() for name, part in self.classes.items()}}


def set_coverage(
    sets: NDArray[np.bool_], classes: NDArray[np.int64], class_names: Sequence[str], groups: NDArray | None = None
) -> SetCoverage:
    """Measure prediction sets on images that did not set their quantiles.

    Args:
        sets: (N, K), N at least 1.
        classes: The true classes, (N,).
        class_names: (K,).
        groups: Group of each image, (N,), for the intervals.
    """
    held = sets[np.arange(len(classes)), classes]
    sizes = sets.sum(1)

    def proportion(happened: NDArray[np.bool_], of: NDArray[np.bool_] | None = None) -> Proportion:
        of = np.ones(len(classes), bool) if of is None else of
        count = effective_count(happened[of], None if groups is None else groups[of])
        return Proportion(int(happened[of].sum()), int(of.sum()), count)

    return SetCoverage(
        overall=proportion(held),
        classes={name: proportion(held, classes == index) for index, name in enumerate(class_names)},
        mean_size=float(sizes.mean()),
        singletons=proportion(sizes == 1),
        empty=proportion(sizes == 0),
        certain_and_right=proportion(held, sizes == 1),
    )
