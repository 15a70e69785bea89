"""What `check_unbiased` found, as a table."""

from dataclasses import dataclass

import numpy as np

from estimand.ppl.measure import aligned

REJECT, RESOLVE = 5.0, 8.0  # standard errors


@dataclass(frozen=True)
class Leaf:
    """The value, or one leaf of the gradient: what was expected, and what was got.

    Attributes:
        z: (got - expected) in standard errors, each entry's.
        smallest_bias: that would have been seen, each entry's.
    """

    name: str
    expected: np.ndarray
    got: np.ndarray
    z: np.ndarray
    smallest_bias: np.ndarray

    @property
    def at(self) -> tuple[int, ...]:
        """The entry of the worst z-score."""
        worst = int(np.argmax(np.nan_to_num(np.abs(self.z), nan=np.inf)))
        return tuple(int(i) for i in np.unravel_index(worst, self.z.shape))

    @property
    def worst(self) -> float:
        """The z-score that is farthest from zero; NaN counts as infinitely far."""
        if not self.z.size:
            return 0.0
        return float(self.z[self.at])


@dataclass(frozen=True, repr=False)
class BiasCheck:
    """What `check_unbiased` found: a `Leaf` for the value and for every leaf of the gradient."""

    name: str
    leaves: tuple[Leaf, ...]
    against: str
    num_samples: int
    unchecked: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        return all(abs(leaf.worst) < REJECT for leaf in self.leaves)

    @property
    def worst(self) -> Leaf:
        return max(self.leaves, key=lambda leaf: np.nan_to_num(abs(leaf.worst), nan=np.inf))

    def __repr__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("", "worst z-score", "visible from a bias of", "largest entry")
        ]
        for leaf in self.leaves:
            sizes = [
                float(np.max(x, initial=0.0)) for x in (leaf.smallest_bias, abs(leaf.expected))
            ]
            rows.append((leaf.name, f"{leaf.worst:.2f}", *(f"{x:.3g}" for x in sizes)))
        found = "no bias was seen" if self.agrees else "BIASED"
        head = f"{self.name}: {found} in {self.num_samples} estimates, against {self.against}"
        notes = [f"  not checked, its own reference: {label}" for label in self.unchecked]
        return "\n".join([head, *("  " + line for line in aligned(rows)), *notes])
