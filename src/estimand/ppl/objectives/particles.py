"""What objectives are made of: one particle, n of them along one axis, means in the log domain.

A model is given as a log density, a function from choices to a scalar, and what is drawn as a
thunk that returns a trace. Neither takes a key or parameters: they are closures over those of the
objective, which is a program, so that every site inside of them is estimated by its own strategy.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from estimand.errors import EstimandError, error, is_count, source_line
from estimand.ppl.arguments import described
from estimand.ppl.gen import GenerativeFunction, Trace
from estimand.ppl.language import detach
from estimand.transforms.staging import is_traced

LogDensity = Callable[[dict[str, Any]], Float[Array, ""]]
Propose = Callable[[], Trace]


def particles(one: Callable[[], Any], n: int, name: str) -> Any:
    """`one()` of n independent particles, along one leading axis."""
    if not is_count(n) or n < 1:
        raise _refused(
            name,
            "its particles are one axis, whose length is known when the program is traced",
            "n, a positive integer",
            repr(n),
            "pass n=1 or more; for an average of independent estimates use num_samples",
        )
    return jax.vmap(lambda _: one())(jnp.arange(n))


def log_weights(log_joint: LogDensity, propose: Propose, n: int, name: str) -> Float[Array, " n"]:
    """log p(z_i) - log q(z_i) of n draws from q."""

    def one() -> Float[Array, ""]:
        q = drawn(propose, name)
        return log_density(log_joint, q.choices, name) - q.log_density

    return particles(one, n, name)


def drawn(propose: Propose, name: str, detached: bool = False) -> Trace:
    """The trace that a thunk returns, or what it has of random values detached."""
    trace = _called(
        propose, name, "what draws is a function, so that every particle draws anew", "propose"
    )
    if not isinstance(trace, Trace):
        raise _refused(
            name,
            "what is drawn needs its choices and their log density",
            "a function without arguments that returns an em.Trace",
            f"one that returns {described(trace)}",
            "lambda: guide.simulate(phi)",
        )
    if not detached:
        return trace
    return trace._replace(choices=detach(trace.choices), log_density=detach(trace.log_density))


def log_density(fun: LogDensity, choices: dict[str, Any], name: str) -> Float[Array, ""]:
    """A log density of choices, which is one real number."""
    value = _called(
        fun, name, "a density is given as a function of the choices", "log_joint", choices
    )
    scalar = is_traced(value) and jnp.shape(value) == ()
    if scalar and jnp.issubdtype(jnp.result_type(value), jnp.floating):
        return jnp.asarray(value)
    raise _refused(
        name,
        "the log density of all choices is one number",
        "a function from choices to a floating scalar",
        f"one that returns {described(value)}",
        "lambda z: model.log_density(em.merge(z, data)), or sum over the data",
    )


def real(value: Any, name: str, problem: str, expected: str, remedy: str, least: float) -> float:
    """A finite Python number greater than `least`, for it decides the form of the program."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if number and math.isfinite(value) and value > least:
        return float(value)
    got = f"an array, {described(value)}" if isinstance(value, jax.Array) else repr(value)
    raise _refused(name, problem, expected, got, remedy)


def _called(fun: Any, name: str, problem: str, role: str, *args: Any) -> Any:
    if callable(fun) and not isinstance(fun, GenerativeFunction):
        return fun(*args)
    draws = role == "propose"
    raise _refused(
        name,
        problem,
        "a function without arguments that returns an em.Trace"
        if draws
        else "a function from choices to a floating scalar",
        "an em.Trace, drawn already" if isinstance(fun, Trace) else repr(fun),
        "lambda: guide.simulate(phi)"
        if draws
        else "lambda z: model.log_density(em.merge(z, data))",
    )


def _refused(name: str, problem: str, expected: str, got: str, remedy: str) -> EstimandError:
    where = f"em.{name} ({source_line()})"
    return error(where, problem, expected=expected, got=got, remedy=remedy)
