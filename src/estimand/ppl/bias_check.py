"""What `check_unbiased` found, as a table."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from estimand.ppl.measure import Moments, aligned

REJECT, RESOLVE = 5.0, 8.0  # standard errors
ROUNDING = 1e-4  # of 1 + |answer|


@dataclass(frozen=True)
class Leaf:
    """The value, or one leaf of the gradient: what was expected, and what was got.

    Attributes:
        z: (got - expected) in standard errors, each entry's; NaN where one of them is not finite.
        smallest_bias: that would have been seen, each entry's; infinite where there is nothing to
            compare with, and z then zero.
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

    @property
    def unchecked(self) -> list[list[int]]:
        return np.argwhere(np.isinf(self.smallest_bias)).tolist()


def leaf_of(path: Any, got: Moments, difference: Moments, truth: Any, unknown: Any) -> Leaf:
    """From estimates, and their differences to the right answer or that answer itself.

    `path` is that of the leaf in (value, gradient); `unknown` are entries without an answer.
    """
    expected = got.mean - difference.mean if truth is None else truth
    rounding = ROUNDING * (1.0 + np.abs(expected))
    finite = np.isfinite(got.mean) & np.isfinite(expected) & np.isfinite(difference.error)
    with np.errstate(invalid="ignore"):
        z = (got.mean - expected) / (difference.error + rounding / REJECT)
    z = np.where(finite, np.abs(z) if np.iscomplexobj(z) else z, np.nan)
    smallest = np.where(finite, RESOLVE * difference.error + rounding, np.nan)
    z, smallest = np.where(unknown, 0.0, z), np.where(unknown, np.inf, smallest)
    name = "value" if path[0].idx == 0 else "gradient" + jax.tree_util.keystr(path[1:])
    return Leaf(name, np.asarray(expected), np.asarray(got.mean), z, smallest)


@dataclass(frozen=True, repr=False)
class BiasCheck:
    """What `check_unbiased` found: a `Leaf` for the value and for every leaf of the gradient.

    Attributes:
        unchecked: sites that have no other strategy than the reference.
        boundary: sites with outcomes of probability zero that the arguments move.
    """

    name: str
    leaves: tuple[Leaf, ...]
    against: str
    num_samples: int
    unchecked: tuple[str, ...] = ()
    boundary: tuple[str, ...] = ()

    @property
    def is_finite(self) -> bool:
        return not any(np.any(np.isnan(leaf.z)) for leaf in self.leaves)

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
            checked = np.where(np.isinf(leaf.smallest_bias), 0.0, leaf.smallest_bias)
            sizes = [float(np.max(x, initial=0.0)) for x in (checked, abs(leaf.expected))]
            cells = [f"{leaf.worst:.2f}", *(f"{x:.3g}" for x in sizes)]
            all_of_it = leaf.unchecked and np.all(np.isinf(leaf.smallest_bias))
            rows.append((leaf.name, *(["-", "-", "-"] if all_of_it else cells)))
        found = "no bias was seen" if self.agrees else "BIASED"
        head = f"{self.name}: {found} in {self.num_samples} estimates, against {self.against}"
        notes = [f"  not checked, its own reference: {label}" for label in self.unchecked]
        return "\n".join(
            [head, *("  " + line for line in aligned(rows)), *notes, *self._boundary()]
        )

    def _boundary(self) -> list[str]:
        if not self.boundary:
            return []
        entries = [f"{leaf.name}{at or ''}" for leaf in self.leaves for at in leaf.unchecked]
        few = ", ".join(entries[:5]) + (f" and {len(entries) - 5} more" if entries[5:] else "")
        why = "outcomes of probability 0, in which no strategy here has a derivative"
        return [f"  not checked, {few}: {why}: {where}" for where in self.boundary]
