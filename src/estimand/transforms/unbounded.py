"""Score sites inside a `while_loop` whose number of steps is random.

JAX cannot differentiate such a loop backwards, and need not: with every draw held fixed, the
only derivative is that of L = sum_t log p_theta(x_t), and each summand's gradient in the
loop's constants is known at its own step. So the loop accumulates L and G = dL/d(constants)
side by side, and outside of it L is rebuilt as a number whose first derivative is G. A
differentiable carry has no place in this and is refused when the program is checked.

A `vmap` makes one loop of all lanes. A lane that has ended is given the carry at which it last
ran, and what comes of it is masked.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from estimand.errors import EstimandError, error
from estimand.transforms.guards import first_order, is_inexact
from estimand.transforms.interpret import (
    Handler,
    Path,
    evaluate_closed,
    going_on,
    interpret,
    refuse_site_in_predicate,
    split_at,
)
from estimand.transforms.jaxprs import Equation, close
from estimand.transforms.sources import source_of


def run_while(
    eqn: Equation, operands: list[Any], handler: Handler, path: Path
) -> tuple[list[Any], dict[str, Any]]:
    """The loop's outputs, and the log density of each of its sites, summed over steps and lanes.

    A sum keeps the rank of what was summed: outside, the steps meet, and the lanes with them.
    """
    refuse_site_in_predicate(eqn)
    sizes = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    cond_consts, consts, init = lax.stop_gradient(split_at(operands, *sizes))
    floating = [i for i, x in enumerate(consts) if is_inexact(x)]

    ndims: dict[str, int] = {}

    def densities(free: list[Any], carry: list[Any], alive: Any, key: Any) -> Any:
        mixed = list(consts)
        for i, x in zip(floating, free, strict=True):
            mixed[i] = x
        child = handler.child(key)
        if alive.ndim:
            child.alive = alive if child.alive is None else alive & child.alive
        outs = interpret(eqn.params["body_jaxpr"], [*mixed, *carry], child, (*path, "body"))
        found = {k: x for k, x in child.outgoing().items() if not k.startswith("draw ")}
        ndims.update((name, jnp.ndim(x)) for name, x in found.items())
        sums = {name: jnp.sum(x) for name, x in found.items()}
        return sums, (outs, sums)

    def step(state: Any) -> Any:
        key, carry, ran, total, slopes = state
        key, now = jax.random.split(key)
        alive = going(carry)
        ran = going_on(alive, carry, ran)
        free = [consts[i] for i in floating]
        more, (outs, sums) = _slopes(densities, free, ran, alive, now)
        carry = going_on(alive, outs, carry)
        return key, carry, ran, _add(total, sums), _add(slopes, more)

    def going(carry: list[Any]) -> Any:
        return evaluate_closed(close(eqn.params["cond_jaxpr"]), [*cond_consts, *carry])[0]

    def proceed(state: Any) -> Any:
        return jnp.any(going(state[1]))

    key = handler.fork(eqn, path, (), None)
    run = partial(_slopes, densities)
    alive = going(init)
    shapes = jax.eval_shape(run, [consts[i] for i in floating], init, alive, key)
    start = (key, init, _of_the_living(alive, init), _zeros(shapes[1][1]), _zeros(shapes[0]))
    _, outs, _, total, slopes = lax.while_loop(proceed, step, start)
    live = split_at(operands, *sizes)[1]
    found = {
        name: sum(
            (
                jnp.sum(first_order(slope, live[i], lambda: _second_order(eqn)))
                for i, slope in zip(floating, slopes[name], strict=True)
            ),
            start=value,
        )
        for name, value in total.items()
    }
    ranked = {name: jnp.reshape(x, (1,) * ndims[name]) for name, x in found.items()}
    return lax.stop_gradient(outs), ranked


def _of_the_living(alive: Any, carry: list[Any]) -> list[Any]:
    """The carry, with that of a living lane for those that never run: the body may be undefined
    at theirs, and a derivative of what is masked afterwards would be NaN."""

    def one(x: Any) -> Any:
        lanes = x.reshape(alive.size, *x.shape[alive.ndim :])
        return jnp.broadcast_to(lanes[jnp.argmax(alive)], x.shape)

    return going_on(alive, carry, list(map(one, carry))) if alive.ndim else carry


def _slopes(densities: Callable, free: list[Any], *args: Any) -> Any:
    """Each density's gradient in the free constants, of which there may be none."""
    if free:
        return jax.jacrev(densities, has_aux=True)(free, *args)
    sums, aux = densities(free, *args)
    return {name: [] for name in sums}, aux


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _add(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _second_order(eqn: Equation) -> EstimandError:
    return error(
        f"while_loop ({source_of(eqn)})",
        "the score of the sites inside it is right to first order only",
        expected="at most one differentiation of the surrogate",
        got="a derivative of higher order",
        remedy="use lax.scan, or a fori_loop with static bounds, where every order is right",
    )
