"""What `choose` found, and the reason of each choice."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from estimand.ppl.diagnosis import digits
from estimand.ppl.expectation import Expectation
from estimand.ppl.measure import aligned
from estimand.transforms.strategy import Strategy


class Measured(NamedTuple):
    """Of a combination: the variance of the gradient, and the cost of one sample."""

    variance: float
    cost: float

    @property
    def product(self) -> float:
        return self.variance * self.cost

    @property
    def rank(self) -> tuple[float, float]:
        """Smaller is better. The cost decides where there is no variance, and in a tie."""
        return (self.product if math.isfinite(self.product) else math.inf, self.cost)

    def over(self, other: "Measured") -> float:
        """How many times as much work this one takes."""
        if not math.isfinite(self.product):
            return math.nan
        if other.product:
            return self.product / other.product
        return math.inf if self.product else self.cost / other.cost


@dataclass(frozen=True, repr=False)
class Choice:
    """What `choose` found: `objective` is re-targeted, `print` gives the reasons.

    Attributes:
        objective: the one that was given, with `strategies`.
        strategies: from every site's label to its strategy. A label is left out if its sites, as in
            exclusive branches, have several and keep them.
        default: variance and cost of the objective as it was given.
        chosen: variance and cost of this one.
        measured: the number of combinations that were measured.
        exhaustive: whether these were all.
    """

    objective: Expectation
    strategies: dict[str, Strategy]
    default: Measured
    chosen: Measured
    measured: int
    exhaustive: bool
    unit: str
    reasons: dict[str, list[tuple[str, ...]]]

    @property
    def work(self) -> str:
        return f"variance x {self.unit}"

    @property
    def improvement(self) -> float:
        """How many times less work than by default, for the same accuracy."""
        return self.default.over(self.chosen)

    def __repr__(self) -> str:
        tried = f"all {self.measured}" if self.exhaustive else str(self.measured)
        how = f"{tried} combination{'s' * (self.measured != 1)} measured" + (
            "" if self.exhaustive else ", site by site"
        )
        ratio = self.improvement
        less = "not finite" if math.isnan(ratio) else "no variance"
        if 0 < ratio < math.inf:
            times = digits(max(ratio, 1 / ratio))
            less = f"{times} times {'less' if ratio > 1 else 'more'} {self.work}"
        found = "the default is the best" if ratio == 1 else f"{less}, against the default"
        lines = [f"{self.objective.name}: {found} ({how})"]
        rows: list[tuple[str, ...]] = [("", "variance", self.unit, "product")]
        for name, m in (("default", self.default), ("chosen", self.chosen)):
            rows.append((name, *map(digits, (m.variance, m.cost, m.product))))
        lines += ["  " + line for line in aligned(rows)]
        for where, table in self.reasons.items():
            title = ("", "variance", self.unit, "product / chosen", "")
            lines += ["", "  " + where]
            lines += ["    " + line for line in aligned([title, *table], last=True)]
        return "\n".join(lines)
