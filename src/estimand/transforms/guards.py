"""Identities that refuse to be differentiated, so that no derivative is silently missing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from estimand.errors import EstimandError

Why = Callable[[], EstimandError]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _refuse(why: Why, x: Any, *also: Any) -> Any:
    """x; raises if x, or anything in `also`, carries a tangent."""
    return x


@_refuse.defjvp
def _refuse_jvp(why: Why, primals: Any, tangents: Any) -> Any:
    raise why()


def refuse_derivative(x: Any, why: Why) -> Any:
    """x, whose differentiation raises `why()`; leaves that are not floating have no tangent."""
    return jax.tree.map(lambda leaf: _refuse(why, leaf) if is_inexact(leaf) else leaf, x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _once(why: Why, xs: list[Any]) -> list[Any]:
    return xs


@_once.defjvp
def _once_jvp(why: Why, primals: Any, tangents: Any) -> tuple[Any, Any]:
    return [_refuse(why, x) for x in primals[0]], tangents[0]


def refuse_second_derivative(xs: list[Any], why: Why) -> list[Any]:
    """Values that may be differentiated once, any of them; to do it again, with respect to the
    same or another, raises `why()`."""
    rest = iter(_once(why, [jnp.asarray(x) for x in xs if is_inexact(x)]))
    return [next(rest) if is_inexact(x) else x for x in xs]


def is_inexact(x: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact))


_estimates = ContextVar("estimates", default=False)


@contextmanager
def estimates_are_differentiated() -> Iterator[None]:
    """Within it, `first_order` lets the slope be differentiated: for what it is, an estimate.

    That gives the derivative of an estimated gradient in what its variance depends on, and is not
    taken for a second derivative of the objective.
    """
    token = _estimates.set(True)
    try:
        yield
    finally:
        _estimates.reset(token)


def first_order(slope: Any, parameter: Any, why: Why) -> Any:
    """A zero whose derivative in `parameter` is `slope`, elementwise, and only once.

    Differentiating the derivative raises `why()`: an estimator that is right to first order
    only would otherwise give a wrong second derivative without complaint. The parameter is
    guarded along with the slope, which may be free of tangents where its mean is not.
    """

    if _estimates.get():
        return slope * (parameter - jax.lax.stop_gradient(parameter))

    @jax.custom_jvp
    def zero(slope: Any, parameter: Any) -> Any:
        return jnp.zeros_like(slope)

    @zero.defjvp
    def zero_jvp(primals: Any, tangents: Any) -> Any:
        slope, parameter = primals
        return jnp.zeros_like(slope), _refuse(why, slope, parameter) * tangents[1]

    return zero(slope, parameter)
