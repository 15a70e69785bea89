"""One flat list of equations.

Calls that only group equations (`jit`, ...) are inlined, so that the frontier of a loss does
not stop at somebody's jit. Some stay whole: functions known by name to be continuous,
densities, custom derivative rules (which would be lost) and loops and branches, whose bodies
are inlined in place. A short scan that holds a multi-point site is unrolled, and a checkpoint
that does is inlined: its points are a matter of the whole program.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from estimand.transforms.continuous import is_continuous, is_density
from estimand.transforms.interpret import custom_rule_lost, drawing, has_sites, split_at
from estimand.transforms.jaxprs import (
    Equation,
    Jaxpr,
    bind_environment,
    close,
    evaluate,
    holds,
    read,
    replace_jaxprs,
    scan_arity,
    subjaxprs,
    trace,
)
from estimand.transforms.primitives import estimated_p
from estimand.transforms.sources import inlined

CALLS = frozenset("jit pjit closed_call core_call".split())
CUSTOM = frozenset("custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr".split())
BODIES = frozenset("scan cond while remat2 checkpoint".split())
CHECKPOINTS = frozenset("remat2 checkpoint".split())


def inline(jaxpr: Jaxpr, unroll: Callable[[Equation], bool]) -> Jaxpr:
    """The same program, flat; `unroll(eqn)` says which scans and checkpoints to write out."""

    def run(*args: Any) -> list[Any]:
        return _run(jaxpr, args, unroll)

    avals = [
        jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype, weak_type=v.aval.weak_type)
        if hasattr(v.aval, "weak_type")
        else jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype)
        for v in close(jaxpr).jaxpr.invars
    ]
    return trace(run, *avals)[0]


def _run(jaxpr: Jaxpr, args: Sequence[Any], unroll: Callable[[Equation], bool]) -> list[Any]:
    env = bind_environment(jaxpr, args)
    inner = close(jaxpr).jaxpr
    for eqn in inner.eqns:
        operands = [read(env, v) for v in eqn.invars]
        env.update(zip(eqn.outvars, _one(eqn, operands, unroll), strict=True))
    return [read(env, v) for v in inner.outvars]


def _one(eqn: Equation, operands: list, unroll: Callable[[Equation], bool]) -> list[Any]:
    name = eqn.primitive.name
    sited = any(has_sites(body) for body in subjaxprs(eqn))
    if eqn.primitive is estimated_p:
        return _run(drawing(eqn), operands, unroll)
    if name in CALLS and (sited or not (is_continuous(eqn) or is_density(eqn))):
        (body,) = subjaxprs(eqn)
        with inlined(eqn):
            return _run(body, operands, unroll)
    if name in CUSTOM and sited:
        raise custom_rule_lost(eqn)
    if name in BODIES and any(holds(body, (estimated_p,)) for body in subjaxprs(eqn)):
        eqn = replace_jaxprs(eqn, lambda body: inline(body, lambda _: False))
    if name == "scan" and sited and unroll(eqn):
        return _unrolled(eqn, operands, unroll)
    if name in CHECKPOINTS and sited and unroll(eqn):
        (body,) = subjaxprs(eqn)
        return _run(body, operands, unroll)
    if name in BODIES:
        eqn = replace_jaxprs(eqn, lambda body: inline(body, unroll))
    return evaluate(eqn, *operands)


def _unrolled(eqn: Equation, operands: list, unroll: Callable[[Equation], bool]) -> list[Any]:
    (body,) = subjaxprs(eqn)
    num_consts, num_carry = scan_arity(eqn)
    consts, carry, xs = split_at(operands, num_consts, num_carry)
    length = eqn.params["length"]
    steps = range(length)
    rows: list[list[Any]] = [[] for _ in steps]
    for t in reversed(steps) if eqn.params["reverse"] else steps:
        outs = _run(body, [*consts, *carry, *(x[t] for x in xs)], unroll)
        carry, rows[t] = outs[:num_carry], outs[num_carry:]
    if not rows:
        return [*carry, *(jnp.zeros(v.aval.shape, v.aval.dtype) for v in eqn.outvars[num_carry:])]
    return [*carry, *(jnp.stack(column) for column in zip(*rows, strict=True))]
