"""Enumeration: E[f(x)] = sum_i p_theta(x_i) f(x_i), exact at every order.

Lanes that the program keeps apart are enumerated side by side, K points for all of them;
lanes that meet (a parity of flips) are one vector of K^n points, up to a cap.

A point of probability exactly zero is replaced, before the program sees it, by the most
probable one, and has weight zero: f may be infinite or undefined there, and masking it
afterwards would leave 0 * inf in the backward pass. The value is exact; what is dropped is
the one-sided derivative at the boundary of a free probability.
"""

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dists

from estimand.errors import error, is_count, source_line
from estimand.transforms.distributions import over_lanes, probabilities, promoting, unexpanded
from estimand.transforms.primitives import Site
from estimand.transforms.strategy import Law, Strategy


@dataclass(frozen=True)
class Enumerate(Strategy):
    """Sum over a finite support; no variance from this site, any order.

    Args:
        cap: the largest number of points, over all enumerated sites that meet in one value.

    Raises:
        EstimandError: the cap is not a positive integer.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def heads(p):
        ...     return 10.0 * em.draw(dist.Bernoulli(p), via=em.Enumerate()).astype(float)
        >>> value, grad = heads.value_and_grad(jax.random.key(0), 0.25)
        >>> float(value), float(grad)
        (2.5, 10.0)
    """

    cap: int = 1024
    fixed_points = True
    caveat = "no derivative from points of probability zero"

    def __post_init__(self) -> None:
        if not is_count(self.cap) or self.cap < 1:
            raise error(
                f"em.Enumerate ({source_line()})",
                "the cap is a number of points",
                expected="a positive integer",
                got=repr(self.cap),
                remedy="leave it out, or write Enumerate(cap=4096)",
            )

    def refuses(self, dist: Any) -> str | None:
        if not dist.has_enumerate_support:
            return "its support is not finite"
        if isinstance(dist, dists.Independent):
            return (
                "NumPyro cannot enumerate to_event(); without it the lanes are enumerated for you"
            )
        try:
            if not len(support_of(dist)):
                return "its support is empty"
        except (NotImplementedError, jax.errors.JAXTypeError, jax.errors.ConcretizationTypeError):
            return "the size of its support is not static (pass its bounds as concrete integers)"
        return None

    def count(self, dist: Any, joint: int) -> int:
        return len(support_of(dist)) ** max(joint, 1)

    def points(self, key: Any, law: Law) -> Any:
        """All assignments [K^n, *lanes, *event] of the joint lanes, equal in the others."""
        support = law.static(support_of)
        values = support[assignments(law, len(support))]
        return jnp.broadcast_to(values, (len(values), *law.shape, *support.shape[1:]))

    def weights(self, law: Law, values: Any) -> Any:
        return _weights(law.site, tuple(sorted(law.joint)), values, law.leaves)

    def combine(self, law: Law, values: Any, f: Any) -> Any:
        p = self.weights(law, values)
        return jnp.sum(p.astype(f.dtype) * f, axis=0)


def assignments(law: Law, size: int) -> np.ndarray:
    """Every choice of one of `size` for each joint lane: [size^n, *lanes], of size one elsewhere.

    In the order of an odometer, whose last lane moves fastest.
    """
    lanes = [n if i in law.joint else 1 for i, n in enumerate(law.shape)]
    rows = list(itertools.product(range(size), repeat=math.prod(lanes)))
    return np.array(rows, dtype=int).reshape(len(rows), *lanes)


def support_of(dist: Any) -> np.ndarray:
    """The support [K, *event] of a distribution, whose batch axes are left out."""
    with jax.ensure_compile_time_eval():
        support = np.asarray(promoting(dist.enumerate_support)(False))
    return support.reshape(len(support), *dist.event_shape)


@partial(jax.jit, static_argnames=("site", "joint"))
def _weights(site: Site, joint: tuple[int, ...], values: Any, leaves: list[Any]) -> Any:
    """Probabilities [m, *batch_shape]: the joint lanes' are multiplied."""

    def one(value: Any, *leaves: Any) -> Any:
        return probability(site.structure.build(list(leaves)), value)

    in_axes: Any = [[0, *axes] for axes in site.in_axes()]
    p = jax.vmap(lambda x: over_lanes(one, site.lanes, in_axes)(x, *leaves))(values)
    return jnp.prod(p, axis=tuple(1 + i for i in joint)) if joint else p


def probability(dist: Any, value: Any) -> Any:
    """P(x = value): from `probs` where there are any, because NumPyro's log_prob clamps them."""
    dist = unexpanded(dist)
    if isinstance(dist, dists.BernoulliProbs | dists.BernoulliLogits):
        return jnp.where(value == 1, dist.probs, 1 - dist.probs)
    if isinstance(dist, dists.CategoricalProbs | dists.CategoricalLogits):
        probs = probabilities(dist, jnp.shape(value))
        return jnp.take_along_axis(probs, value[..., None], axis=-1)[..., 0]
    if isinstance(dist, dists.BinomialProbs | dists.BinomialLogits):
        p, n = dist.probs, dist.total_count
        inside = dists.BinomialProbs(jnp.where((0 < p) & (p < 1), p, 0.5), n, validate_args=False)
        at_ends = jnp.where(p == 0, value == 0, value == n).astype(p.dtype)
        return jnp.where((0 < p) & (p < 1), jnp.exp(inside.log_prob(value)), at_ends)
    return jnp.exp(dist.log_prob(value))
