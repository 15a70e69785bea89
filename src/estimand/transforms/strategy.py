"""What a strategy is, and what it sees of the site it is for.

A strategy evaluates the rest of the program at finitely many points and combines what it
gets. For every function f, the rest of the program given the noise that follows,

    E[combine(law, values, f(values))] = E_{x ~ law}[f(x)],   values = points(key, law),

and so do their derivatives in the law's parameters, up to the `order` it declares.
Strategies are frozen dataclasses, so that they are static, hashable and print themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree, Shaped

from estimand.errors import EstimandError, error, source_line
from estimand.transforms.density import draw, log_density
from estimand.transforms.distributions import over_lanes
from estimand.transforms.guards import first_order
from estimand.transforms.primitives import Site

MOST_POINTS = 2**16  # over all sites that meet in one value, where no strategy says less


@dataclass(frozen=True)
class Law:
    """The distribution of a site, as a strategy sees it.

    A site has *lanes*: the axes that `vmap` and `scan` add and the native batch axes of its
    distribution, in this order. `batch_shape` are the lanes that the rest of the program
    keeps apart; lanes in `joint` meet in it and are one random vector. Along a lane in
    `running`, what follows at position t depends on positions up to t ("<") or from t on
    (">"), so their log probabilities accumulate.

    `combine` and `control` see the key that `points` was given, so that they can draw the same
    noise again, and what `before` returned. `state` are the strategy's own parameters. In
    `control` only those joint lanes are joint that are drawn given the same past: not the steps.
    """

    site: Site
    leaves: list[Any]
    shape: tuple[int, ...]  # of all lanes
    joint: frozenset[int] = frozenset()
    running: dict[int, str] = field(default_factory=dict)
    label: str = ""
    key: Any = None
    state: Any = None
    before: Any = None

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(n for i, n in enumerate(self.shape) if i not in self.joint)

    def map(self, fun: Callable, *args: Any) -> Any:
        """`fun(distribution, *args)` in every `vmap` lane; args have those lanes leading."""

        def one(args: Any, *leaves: Any) -> Any:
            return fun(self.site.structure.build(list(leaves)), *args)

        in_axes: Any = [[0, *axes] for axes in self.site.in_axes()]
        return over_lanes(one, self.site.lanes, in_axes)(args, *self.leaves)

    def static(self, fun: Callable) -> Any:
        """`fun(distribution)` for what does not depend on the parameters' values."""
        return fun(self.site.structure.placeholder(self.site.bare(self.leaves)))

    def sample(self, key: Any) -> Any:
        """One draw of all lanes, of shape lanes + event."""
        return draw(self.site, key, self.leaves)

    def log_prob(self, values: Any) -> Any:
        """log p(values) of shape `batch_shape`: joint lanes summed, running ones accumulated."""
        return self.gather(self.log_density(values))

    def log_density(self, values: Any) -> Any:
        """log p(values) lane by lane, of shape `shape`."""
        return log_density(self.site, values, self.leaves)

    def gather(self, terms: Any) -> Any:
        """Of shape `batch_shape` from `shape`, as `log_prob` does it."""
        for axis, direction in self.running.items():
            terms = jax.lax.cumsum(terms, axis=axis, reverse=direction == ">")
        return jnp.sum(terms, axis=tuple(sorted(self.joint)))

    def spread(self, x: Any) -> Any:
        """x of shape `batch_shape` with an axis for every lane, of size one for joint ones."""
        return jnp.reshape(x, [1 if i in self.joint else n for i, n in enumerate(self.shape)])

    def shaped(self, strategy: "Strategy", method: str, x: Any, shape: tuple[int, ...]) -> Any:
        """What a strategy's method returned, which may not be broadcast."""
        if jnp.shape(x) == tuple(shape):
            return x
        raise error(
            f"site {self.label!r} ({self.site.source})",
            f"{strategy}.{method} returned another shape than the contract says",
            expected=f"an array of shape {list(shape)}, as the docstring of em.Strategy.{method} "
            "has it",
            got=f"shape {list(jnp.shape(x))}",
            remedy=f"correct {method}, or give the site another strategy",
        )

    def first_order(self, strategy: "Strategy", slope: Any, parameter: Any) -> Any:
        """A zero whose derivative in `parameter` is `slope`; a second derivative raises."""
        why = partial(_beyond_order, strategy, self.label, self.site.source)
        return first_order(slope, parameter, why)


@dataclass(frozen=True)
class RecordedLaw(Law):
    """The law of a site inside a loop or a branch, outside of which its parameters are gone.

    What came out is the draws (not from a `while_loop`, whose number of steps is unknown) and
    their log density, which is the only one that `log_prob` can give.
    """

    recorded: Any = None
    draws: Any = None

    def log_density(self, values: Any) -> Any:
        if values is not self.draws:
            raise self._gone("log_prob of other values")
        return self.recorded

    def map(self, fun: Callable, *args: Any) -> Any:
        raise self._gone("map")

    def sample(self, key: Any) -> Any:
        raise self._gone("sample")

    def _gone(self, method: str) -> EstimandError:
        return error(
            f"site {self.label!r} ({self.site.source})",
            "inside a loop or a branch, a strategy's combine and control have the draws and their "
            "log density, but not the distribution",
            expected="law.log_prob(values), of the draws themselves, and law.static",
            got=f"law.{method}",
            remedy="use another strategy for this site, or take it out of the loop",
        )


@dataclass(frozen=True)
class Strategy:
    """Base of all strategies; a user's own subclasses it in the same way.

    Class attributes:
        order: the highest order of derivative that stays unbiased; None for any.
        pathwise: the value is a differentiable function of the parameters, and `combine`
            is never called.
        through: the values are differentiable in the parameters, and `combine` uses that.
        relaxed: the values lie between the integers of the support, and are floating.
        meets: where lanes meet, what follows is also evaluated with each lane's part replaced by
            the mean of the others': f then has a leading axis, the draw and each replacement.
        smooths: the values are of a law around the site's, with a density everywhere: how the
            support moves does not matter, and the site's own density may not be read at them.
        fixed_points: `points` depends on the support alone, not on key or parameters;
            `weights` must then say each point's probability, and the points of
            probability zero are replaced before the program sees them.
        tuned: `state` is trained to lower the variance of the gradient, and not by a loss that
            the surrogate holds.
        caveat: what `explain` adds to every site with this strategy.

    A field or attribute `cap` limits the points of all sites that meet in one value.
    """

    order: ClassVar[int | None] = None
    pathwise: ClassVar[bool] = False
    through: ClassVar[bool] = False
    relaxed: ClassVar[bool] = False
    meets: ClassVar[bool] = False
    smooths: ClassVar[bool] = False
    fixed_points: ClassVar[bool] = False
    tuned: ClassVar[bool] = False
    caveat: ClassVar[str] = ""

    @property
    def cap(self) -> int:
        return MOST_POINTS

    @property
    def optimizer(self) -> optax.GradientTransformation | None:
        """How `state` follows its gradient; None for no state."""
        return None

    def init(self, key: Key[Array, ""], law: Law) -> PyTree:
        """The first `state` of a site; of the law, the parameters are not known yet."""
        raise NotImplementedError

    def refuses(self, dist: Any) -> str | None:
        """Why a (lane-free) NumPyro distribution cannot be given this strategy, or None."""
        return None

    def count(self, dist: Any, joint: int) -> int:
        """How many points, for a distribution of which `joint` lanes meet."""
        return 1

    def points(self, key: Key[Array, ""], law: Law) -> Shaped[Array, "..."]:
        """Values [m, *lanes, *event], m being `count`, or [*lanes, *event] for a single point."""
        raise NotImplementedError

    def before(self, law: Law) -> Shaped[Array, "..."] | None:
        """What `combine` and `control` need of the parameters where a site is inside a loop."""
        return None

    def weights(self, law: Law, values: Shaped[Array, "..."]) -> Float[Array, "..."]:
        """Probabilities [m, *batch_shape] of fixed points."""
        raise NotImplementedError

    def combine(
        self, law: Law, values: Shaped[Array, "..."], f: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """The surrogate, of shape `batch_shape`, from f of shape [m, *batch_shape]."""
        raise NotImplementedError

    def control(self, law: Law, values: Shaped[Array, "..."]) -> Float[Array, "..."] | None:
        """A control variate, added once per site: [*lanes], or None.

        Given what comes before the site, its mean is zero as a function of the parameters.
        """
        return None


def shape_of_points(
    found: tuple[int, ...], one: tuple[int, ...], m: int, fixed: bool
) -> tuple[int, ...]:
    """The shape that m points must have, one of them having the shape `one`.

    A single one needs no axis. Where a lane is empty there may be fewer than were counted.
    """
    empty = 0 in one
    if len(found) <= len(one) and (empty or (m == 1 and not fixed)):
        return one
    return (found[0] if empty and found else m, *one)


def check_optimizer(name: str, optimizer: Any) -> None:
    if not isinstance(optimizer, optax.GradientTransformation):
        raise error(
            f"em.{name} ({source_line()})",
            "its own parameters are trained by an optimizer of Optax",
            expected="an optax.GradientTransformation",
            got=repr(optimizer),
            remedy="write optimizer=optax.adam(1e-2), or leave it out",
        )


def _beyond_order(strategy: Strategy, label: str, source: str) -> EstimandError:
    """Takes words only, because what an error's closure holds outlives a trace."""
    return error(
        f"site {label!r} ({source})",
        f"{strategy} gives derivatives of order {strategy.order} only",
        expected=f"at most {strategy.order} differentiation(s) of the surrogate",
        got="a derivative of higher order",
        remedy="give the site Score() or Enumerate(), which are right at every order: "
        f"objective.using({{{label!r}: em.Score()}})",
    )
