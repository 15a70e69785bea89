"""Sums of products over finite choices, in logarithms and with lanes.

A *factor* is a log weight that depends on some sites' points. Its leading axes are those sites,
its other axes are lanes: `places[s]` says which of them each lane of site s is, None for a lane
that is enumerated jointly with others. To eliminate a site is to add the factors that hold it,
lane by lane, and to sum their exponentials over its points:

    sum_s prod_l exp(f(s_l, t_l) + g(s_l)) = prod_l sum_s exp(f(s, t_l) + g(s)),

which costs one site's points times those of its neighbours, and not all sites' points. A site
can go once no other site keeps lanes apart that it does not (tensor variable elimination:
Obermeyer et al. 2019): plates are summed from the inside out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from estimand.errors import EstimandError
from estimand.transforms.combine import Lifted, lifted
from estimand.transforms.weights import log_sum_exp

Places = dict[int, tuple[int | None, ...]]


class Factor(NamedTuple):
    array: Any
    axes: tuple[int, ...]  # sites, increasing
    places: Places  # of those sites

    @property
    def lanes(self) -> int:
        return self.array.ndim - len(self.axes)

    def followed(self, site: int) -> set[int]:
        return {place for place in self.places[site] if place is not None}

    def outermost(self) -> int | None:
        """A site that follows all lanes that another one follows, if there is one."""
        every = set().union(*(self.followed(s) for s in self.axes))
        return next((s for s in self.axes if self.followed(s) == every), None)


class Eliminated(NamedTuple):
    """A site that was summed over, and what its points weigh given those of the other axes."""

    site: int
    weight: Factor


def eliminate(
    factors: Sequence[Factor],
    sites: Sequence[int],
    cap: int,
    too_many: Callable[[Sequence[int], int], EstimandError],
) -> tuple[list[Factor], list[Eliminated]]:
    """The factors with these sites summed out, and in which order that was done.

    Of those that can go, the one that brings the fewest points together goes first. Raises
    `too_many(sites, points)` where more than `cap` points would meet, or (points 0) where lanes
    are entangled.
    """
    factors, left, done = list(factors), list(sites), []
    while left:
        able = [s for s in left if _is_innermost(s, factors)]
        if not able:
            raise too_many(left, 0)
        size, site = min((_points(s, factors), -s) for s in able)
        site = -site
        held = [f for f in factors if site in f.axes]
        if size > cap:
            raise too_many(sorted(set().union(*(f.axes for f in held))), size)
        weight = add(held, site)
        factors = [f for f in factors if site not in f.axes] + [_summed_out(weight, site)]
        left.remove(site)
        done.append(Eliminated(site, weight))
    return gathered(factors), done


def _is_innermost(site: int, factors: Sequence[Factor]) -> bool:
    held = [f for f in factors if site in f.axes]
    return all(f.followed(other) <= f.followed(site) for f in held for other in f.axes)


def _points(site: int, factors: Sequence[Factor]) -> int:
    held = [f for f in factors if site in f.axes]
    sizes = {s: f.array.shape[k] for f in held for k, s in enumerate(f.axes)}
    return math.prod(sizes.values())


def add(factors: Sequence[Factor], site: int) -> Factor:
    """The sum of factors that hold a site, whose lanes it has, in their order."""
    apart = [i for i, place in enumerate(factors[0].places[site]) if place is not None]
    reduced, places = [], {}
    for factor in factors:
        lanes = [factor.places[site][i] for i in apart]
        reduced.append(_with_lanes(factor, lanes))
        for other, row in factor.places.items():
            places[other] = tuple(lanes.index(d) if d in lanes else None for d in row)
    (out,) = lifted(lambda *xs: [sum(xs[1:], start=xs[0])], reduced)
    return Factor(out.array, out.axes, places)


def _with_lanes(factor: Factor, lanes: Sequence[Any]) -> Lifted:
    """Its array with these lanes, in this order; the others are summed."""

    def aligned(x: Any) -> list[Any]:
        moved = jnp.moveaxis(x, lanes, range(len(lanes)))
        return [jnp.sum(moved, axis=tuple(range(len(lanes), x.ndim)))]

    (out,) = lifted(aligned, [Lifted(factor.array, factor.axes)])
    return out


def _summed_out(weight: Factor, site: int) -> Factor:
    at = weight.axes.index(site)
    axes = tuple(s for s in weight.axes if s != site)
    return Factor(log_sum_exp(weight.array, at), axes, {s: weight.places[s] for s in axes})


def gathered(factors: Sequence[Factor]) -> list[Factor]:
    """The same product: lanes that no site follows summed, and factors of one kind added."""
    kinds: dict[Any, list[Factor]] = {}
    for factor in factors:
        site = factor.outermost()
        if site is not None:
            factor = add([factor], site)
        elif not factor.axes:
            factor = Factor(jnp.sum(factor.array), (), {})
        kinds.setdefault(kind_of(factor), []).append(factor)
    return [
        Factor(sum((f.array for f in same[1:]), start=same[0].array), same[0].axes, same[0].places)
        for same in kinds.values()
    ]


def conditional(weight: Factor, site: int, points: Mapping[int, Any]) -> Any:
    """The log weights [*lanes, K] of a site, the points of the other axes given, lane by lane."""
    array, axes = weight.array, list(weight.axes)
    for other in weight.axes:
        if other != site:
            at, row = axes.index(other), [p for p in weight.places[other] if p is not None]
            spare = tuple(range(len(row), weight.lanes))
            chosen = jnp.moveaxis(jnp.expand_dims(points[other], spare), range(len(row)), row)
            chosen = jnp.expand_dims(chosen, tuple(range(len(axes))))
            array = jnp.squeeze(jnp.take_along_axis(array, chosen, axis=at), at)
            axes.remove(other)
    return jnp.moveaxis(array, 0, -1)


def kind_of(factor: Factor) -> tuple[tuple[int, ...], tuple, tuple[int, ...]]:
    """Factors of one kind can be added entry by entry: axes, places and shape."""
    return factor.axes, tuple(sorted(factor.places.items())), factor.array.shape


def renamed(x: Lifted, names: Mapping[int, int]) -> Lifted:
    """The same value with other names for its axes."""
    axes = [names.get(axis, axis) for axis in x.axes]
    order = sorted(range(len(axes)), key=axes.__getitem__)
    rest = range(len(axes), jnp.ndim(x.array))
    return Lifted(jnp.transpose(x.array, [*order, *rest]), tuple(axes[i] for i in order))


def renamed_factor(x: Factor, names: Mapping[int, int]) -> Factor:
    array, axes = renamed(Lifted(x.array, x.axes), names)
    return Factor(array, axes, {names.get(s, s): row for s, row in x.places.items()})
