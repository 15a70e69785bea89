"""Lifted values, and combining one over the points of a site."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from estimand.errors import EstimandError, error
from estimand.transforms.guards import is_inexact
from estimand.transforms.places import Dep, SiteInfo
from estimand.transforms.strategy import Law, RecordedLaw, Strategy


class Lifted(NamedTuple):
    """An array whose leading axes are named, each by the turn of the site it belongs to."""

    array: Any
    axes: tuple[int, ...]  # increasing


def lifted(fun: Callable[..., list[Any]], operands: Sequence[Lifted]) -> list[Lifted]:
    """`fun` on lifted operands: batched over the union of their axes, earliest outermost."""
    union = tuple(sorted(set().union(*(x.axes for x in operands))))
    for axis in reversed(union):
        fun = jax.vmap(fun, in_axes=tuple(0 if axis in x.axes else None for x in operands))
    return [Lifted(out, union) for out in fun(*(x.array for x in operands))]


def plain(x: Lifted) -> Any:
    """The array of a value that no lifted site reaches (it is equal along its axes)."""
    return x.array[(0,) * len(x.axes)] if x.axes else x.array


@dataclass(frozen=True)
class Drawn:
    """A weighted site that was given its points, or whose draws' log density was recorded."""

    info: SiteInfo
    strategy: Strategy
    joint: frozenset[int]
    values: Lifted
    leaves: Sequence[Lifted] = ()
    recorded: Lifted | None = None
    before: Lifted | None = None
    key: Any = None
    state: Any = None

    @property
    def many(self) -> bool:
        return self.info.order in self.values.axes

    @property
    def parameters(self) -> list[Lifted]:
        """What the law is made of."""
        known = [self.recorded] if self.recorded is not None else list(self.leaves)
        return known if self.before is None else [*known, self.before]

    @property
    def law_axes(self) -> tuple[int, ...]:
        return tuple(sorted(set().union(*(x.axes for x in self.parameters))))

    def law(
        self, parameters: Sequence[Any], values: Any, joint: frozenset[int], running: dict
    ) -> Law:
        info, parameters, before = self.info, list(parameters), None
        if self.before is not None:
            before = parameters.pop()
        leaves = parameters if self.recorded is None else list(info.leaves)
        law = Law(
            info.site, leaves, info.shape, joint, running, info.label, self.key, self.state, before
        )
        if self.recorded is None:
            return law
        (log_density,) = parameters
        return RecordedLaw(**law.__dict__, recorded=log_density, draws=values)

    def alive(self, axes: Sequence[int]) -> Lifted:
        """Fixed points with those of probability zero replaced by the most probable one.

        A point is impossible given `axes` if it is so for every value of the law's other
        axes.
        """
        own, others = self.info.order, self.law_axes

        def weights(*parameters: Any) -> list[Any]:
            grid = self.values.array
            return [self.strategy.weights(self.law(parameters, grid, self.joint, {}), grid)]

        (every,) = lifted(weights, self.parameters)
        kept = tuple(axis for axis in others if axis in axes)
        dropped = tuple(i for i, a in enumerate(others) if a not in kept)
        w = jnp.max(every.array, axis=dropped) if dropped else every.array

        def replace(w: Any, grid: Any) -> list[Any]:
            w = _over_lanes(jax.lax.stop_gradient(w), self.info.shape, self.joint, lead=1)
            w = w.reshape(w.shape + (1,) * (grid.ndim - w.ndim))
            best = jnp.broadcast_to(jnp.argmax(w, axis=0, keepdims=True), (1, *grid.shape[1:]))
            return [_impossible_replaced(w, grid, best)]

        grid = Lifted(self.values.array, ())
        (out,) = lifted(replace, [Lifted(w, kept), grid])
        return Lifted(out.array, (*kept, own))

    def control(self) -> Lifted | None:
        """The strategy's control variate, of the shape of the lanes, if it has one."""

        def evaluate(values: Any, *parameters: Any) -> list[Any]:
            law = self.law(parameters, values, drawn_together(self.info, self.joint), {})
            control = self.strategy.control(law, values)
            if control is None:
                return []
            return [law.shaped(self.strategy, "control", control, self.info.shape)]

        values = _without(self.values, self.info.order)
        return next(iter(lifted(evaluate, [values, *self.parameters])), None)


def with_replacements(x: Lifted, own: int, axis: int) -> Lifted:
    """x and, along a new axis named `own`, x with each entry of `axis` replaced in turn.

    It is replaced by the mean of the others that are finite: by a number, if x is one.
    """

    def replaced(x: Any) -> list[Any]:
        n = x.shape[axis]
        lanes = np.eye(n, dtype=bool).reshape(n, *(1,) * axis, n, *(1,) * (x.ndim - axis - 1))
        others = jnp.isfinite(x) & ~lanes
        count = jnp.maximum(jnp.sum(others, axis=1 + axis, keepdims=True), 1)
        total = jnp.sum(jnp.where(others, x, 0), axis=1 + axis, keepdims=True)
        mean = jax.lax.stop_gradient(total.astype(float) / count.astype(float)).astype(x.dtype)
        return [jnp.concatenate([x[None], jnp.where(lanes, mean, x)])]

    (out,) = lifted(replaced, [x])
    axes = tuple(sorted((*x.axes, own)))
    return Lifted(jnp.moveaxis(out.array, len(x.axes), axes.index(own)), axes)


def drawn_together(info: SiteInfo, joint: frozenset[int]) -> frozenset[int]:
    """The joint lanes that are drawn given the same past: the steps of a scan are not."""
    return frozenset(i for i in joint if i >= info.steps)


@jax.jit
def _impossible_replaced(w: Any, grid: Any, best: Any) -> Any:
    return jnp.where(w > 0, grid, jnp.take_along_axis(grid, best, axis=0))


def _over_lanes(x: Any, shape: Sequence[int], joint: frozenset[int], lead: int) -> Any:
    """[..., *batch_shape] with size-one axes put in where lanes are joint."""
    sizes = [1 if i in joint else n for i, n in enumerate(shape)]
    return jnp.reshape(x, (*x.shape[:lead], *sizes))


def combine(term: Lifted, dep: Dep, drawn: Drawn) -> Lifted:
    """The surrogate of a term's expectation over one site, the last that reaches it."""
    own, lanes = drawn.info.order, range(len(drawn.info.shape))
    many = drawn.many or own in term.axes
    if many:
        joint, running = drawn.joint, {}
        if own not in term.axes:
            m = drawn.values.array.shape[drawn.values.axes.index(own)]
            term = Lifted(_insert(term, m), (*term.axes, own))
    else:
        joint = frozenset(i for i in lanes if dep.places[i] is None)
        running = {i: p[1] for i, p in enumerate(dep.places) if p is not None and p[1] != "="}
    apart = [i for i in lanes if i not in joint]
    followed = [dep.places[i][0] for i in apart]  # type: ignore[index]

    def one(f: Any, values: Any, *parameters: Any) -> list[Any]:
        if not dep.live:
            parameters = jax.lax.stop_gradient(parameters)
        law = drawn.law(parameters, values, joint, running)

        def checked(f: Any) -> Any:
            out = drawn.strategy.combine(law, values, f)
            return law.shaped(drawn.strategy, "combine", out, f.shape[many:])

        found = _each(checked, f, followed, many)
        if is_inexact(f) and not is_inexact(found):  # f may be of the integers of aux
            raise _not_floating(drawn, found)
        return [found]

    operands = [_without(term, own), _without(drawn.values, own)]
    (out,) = lifted(one, [*operands, *drawn.parameters])
    return out


def _not_floating(drawn: Drawn, found: Any) -> EstimandError:
    return error(
        drawn.info.where,
        f"combine of {drawn.strategy!r} returned no floating numbers, and so no derivative",
        expected="floating numbers, of the type of f",
        got=f"{found.dtype}{list(found.shape)}",
        remedy="calculate with f as it is given, and cast it to nothing",
    )


def _without(x: Lifted, own: int) -> Lifted:
    """The last of its axes, which belongs to the site itself, as an ordinary one."""
    return Lifted(x.array, tuple(axis for axis in x.axes if axis != own))


def _insert(term: Lifted, m: int) -> Any:
    x, at = term.array, len(term.axes)
    x = jnp.expand_dims(x, at)
    return jnp.broadcast_to(x, (*x.shape[:at], m, *x.shape[at + 1 :]))


def _each(combine: Callable, f: Any, followed: Sequence[int], many: bool) -> Any:
    """Apply `combine` with the lanes' axes leading, over each entry of all other axes."""
    lead = 1 if many else 0
    sources = [axis + lead for axis in followed]
    f = jnp.moveaxis(f, sources, range(lead, lead + len(sources)))
    batch, rest = f.shape[: lead + len(sources)], f.shape[lead + len(sources) :]
    if not rest:
        out = combine(f)
    else:
        flat = f.reshape(*batch, int(np.prod(rest)))
        out = jax.vmap(combine, in_axes=-1, out_axes=-1)(flat)
        out = out.reshape(*batch[lead:], *rest)
    return jnp.moveaxis(out, range(len(followed)), followed)
