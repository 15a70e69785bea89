"""Supports: which leaves bound one, and whether one lies inside another."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dists
from numpyro.distributions import Distribution, constraints

from estimand.transforms.dependence import Dependence
from estimand.transforms.distributions import Structure, parts, promoting
from estimand.transforms.jaxprs import is_concrete, trace
from estimand.transforms.places import Dep, State
from estimand.transforms.repairs import MASKING


@functools.lru_cache(maxsize=4096)
def bounding_leaves(structure: Structure, avals: tuple[Any, ...]) -> frozenset[int]:
    """The leaves of a distribution that its support depends on (high of Uniform(0, high)).

    Those that `support` is computed from, also in the distributions that this one is made
    of: NumPyro names the support of a mixture's first component only, and takes the image of
    a transform for all of the reals if it is not told otherwise.
    """

    def bounds(*leaves: Any) -> list[Any]:
        found: list[Any] = []
        for dist in parts(structure.build(list(leaves))):
            with contextlib.suppress(NotImplementedError):
                found += jax.tree.leaves(dist.support)
            if isinstance(dist, dists.Delta):
                found += [dist.v, dist.log_density]
            if isinstance(dist, dists.TransformedDistribution):
                found += jax.tree.leaves(_moving(dist))
        return found

    jaxpr, _ = trace(promoting(bounds), *avals)
    inputs = [State({(i,): Dep(())}) for i in range(len(avals))]
    dependence = Dependence(lambda info: False)
    outs = dependence.outputs(dependence.analyse(jaxpr, inputs))
    return frozenset(path[0] for out in outs for path in out.deps)


def has_inner_edges(dist: Distribution) -> bool:
    """Whether the density may jump where the support that is declared has no edge.

    At an edge of one component of a mixture, or of the base of a transform that says that it
    maps all of the reals.
    """
    if isinstance(dist, dists.MixtureGeneral):
        whole = range_of(dist.support)
        components = dist.component_distributions
        return any(range_of(c.support) != whole or has_inner_edges(c) for c in components)
    if isinstance(dist, dists.MixtureSameFamily):
        return has_inner_edges(dist.component_distribution)
    if isinstance(dist, dists.TransformedDistribution):
        supports = [dist.base_dist.support, *(t.codomain for t in dist.transforms[:-1])]
        untold = zip(supports, dist.transforms, strict=True)
        told = all(is_whole(s) or not is_whole(t.domain) for s, t in untold)
        own = type(dist).support is not dists.TransformedDistribution.support  # LogUniform's
        return not (told or own) or has_inner_edges(dist.base_dist)
    base = getattr(dist, "base_dist", None)
    return isinstance(base, Distribution) and has_inner_edges(base)


def _moving(dist: dists.TransformedDistribution) -> list[Any]:
    """The transforms whose parameters move the support: those of something not all the reals."""
    support, moving = dist.base_dist.support, []
    for transform in dist.transforms:
        if not is_whole(support):
            moving.append(transform)
        support = transform.codomain
    return moving


class Range(NamedTuple):
    """The set of values of one coordinate."""

    low: float
    high: float
    integer: bool


def supports_of(
    structure: Structure, avals: Sequence[Any], known: Mapping[int, Range]
) -> tuple[Any, Any] | None:
    """What every, and what some, distribution of these shapes has in its support.

    `known` are the ranges of the bounding leaves; None if one of them is not known.
    """
    bounding = bounding_leaves(structure, tuple(avals))
    if not bounding:
        support = structure.placeholder(avals).support
        return None if support is None else (support, support)
    if any(i not in known for i in bounding):
        return None

    def at(end: str) -> Range | None:
        leaves = [np.ones(a.shape, a.dtype) for a in avals]
        for i in bounding:
            leaves[i] = np.full(avals[i].shape, getattr(known[i], end), avals[i].dtype)
        return range_of(structure.build(leaves).support)

    a, b = at("low"), at("high")
    if a is None or b is None:
        return None
    every = _constraint(max(a.low, b.low), min(a.high, b.high), a.integer)
    some = _constraint(min(a.low, b.low), max(a.high, b.high), a.integer)
    return every, some


def _constraint(low: float, high: float, integer: bool) -> Any:
    return (constraints.integer_interval if integer else constraints.interval)(low, high)


def constant_range(value: Any) -> Any:
    """The interval that holds all entries of a concrete array, as a constraint; or None."""
    if not is_concrete(value) or jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key):
        return None
    array = np.asarray(value)
    if array.size == 0 or array.dtype.kind not in "fiub" or np.isnan(array).any():
        return None
    return _constraint(float(array.min()), float(array.max()), array.dtype.kind != "f")


def range_of(support: Any) -> Range | None:
    """A support as a range, if it is one for each coordinate and its bounds are numbers."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    name = type(support).__name__.lstrip("_")
    low = getattr(support, "lower_bound", -np.inf)
    high = getattr(support, "upper_bound", np.inf)
    if not (is_concrete(low) and is_concrete(high)):
        return None
    if name == "Boolean":
        return Range(0, 1, True)
    if name.startswith("Integer"):
        return Range(float(np.max(low)), float(np.min(high)), True)
    if name in ("Real", "RealVector", "RealMatrix"):
        return Range(-np.inf, np.inf, False)
    if _has_ends(support):
        return Range(float(np.max(low)), float(np.min(high)), False)
    return None


WRAPPERS = (dists.Independent, dists.ExpandedDistribution, dists.MaskedDistribution)


def can_be_left(dist: Distribution) -> bool:
    """Whether a given value may lie outside of a support that can be tested for exactly.

    A simplex, a sphere or a correlation matrix is tested up to a rounding error, and a long
    vector that is one exactly may fail; those are left to the user.
    """
    found = [each.support for each in parts(dist) if not isinstance(each, (*MASKING, *WRAPPERS))]
    bases = [getattr(support, "base_constraint", support) for support in found]
    if None in found:
        return False
    tested = [s.is_discrete or range_of(s) is not None or _has_ends(s) for s in bases]
    return all(tested) and not all(map(is_whole, bases))


def snapped(dist: Distribution, value: Any) -> Any:
    """The value, put back inside of an interval that rounding made it leave.

    The draws of a truncated normal may lie on its ends, or a rounding error beyond them. Zero is
    an end that rounding does not cross.
    """
    support = getattr(dist.support, "base_constraint", dist.support)
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        return value
    slack = 8 * jnp.finfo(jnp.result_type(value)).eps
    for name, sign in (("lower_bound", 1), ("upper_bound", -1)):
        end = getattr(support, name, None)
        if end is not None:
            end = jnp.asarray(end, value.dtype)
            outside = sign * (end - value)  # how far
            inside = jnp.nextafter(end, sign * jnp.full_like(end, jnp.inf))
            near = (0 <= outside) & (outside <= slack * jnp.abs(end)) & (end != 0)
            value = jnp.where(near, inside, value)
    return value


def _has_ends(support: Any) -> bool:
    return hasattr(support, "lower_bound") or hasattr(support, "upper_bound")


def is_whole(support: Any) -> bool:
    """Whether a support is all of the reals, so that no value leaves it."""
    return range_of(support) == Range(-np.inf, np.inf, False)


HULLS = {
    "Simplex": (0.0, 1.0),
    "PositiveOrderedVector": (0.0, np.inf),
    "Sphere": (-1.0, 1.0),
    "CorrCholesky": (-1.0, 1.0),
    "CorrMatrix": (-1.0, 1.0),
    "OrderedVector": (-np.inf, np.inf),
    "LowerCholesky": (-np.inf, np.inf),
    "PositiveDefinite": (-np.inf, np.inf),
}


def hull(support: Any) -> Range | None:
    """The range of all coordinates together."""
    name = type(support).__name__.lstrip("_")
    each = range_of(support)
    if name in HULLS or each is None:
        return Range(*HULLS[name], False) if name in HULLS else None
    support = getattr(support, "base_constraint", support)
    low, high = (getattr(support, f"{end}_bound", None) for end in ("lower", "upper"))
    low = each.low if low is None else float(np.min(low))
    high = each.high if high is None else float(np.max(high))
    return Range(low, high, each.integer)


def lies_inside(inner: Any, outer: Any) -> bool:
    """Whether a support is known not to leave another; where neither is a range, same kind."""
    a, b = hull(inner), range_of(outer)
    if a is not None and b is not None:
        within = b.low <= a.low and a.high <= b.high
        return within and (a.integer or not b.integer)
    if b == Range(-np.inf, np.inf, False) or type(inner) is type(outer):
        return True
    return a is None and not is_whole(inner)
