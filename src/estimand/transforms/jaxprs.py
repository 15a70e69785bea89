"""Reading and re-running jaxprs: all that the library knows about JAX's own equations.

This file and `primitives.py` are the only ones that touch `jax.extend` or `jax.core`, and
tests/test_jax_contract.py pins what they use. An equation is never re-bound by hand: it is
run as a one-equation jaxpr, so JAX itself deals with its parameters.
"""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as jex
from jax.extend.core import Literal

Jaxpr = Any  # `ClosedJaxpr` and `Jaxpr` are one class from JAX 0.11 on
Equation = Any
Var = Any

SCOPE = "em:"  # prefix of a named scope that belongs to addresses
DERIVATIVE = "jvp"  # JAX's mark of what it made by differentiating

__all__ = ["DERIVATIVE", "SCOPE", "Equation", "Jaxpr", "Literal", "Var"]


def trace(fun: Callable, *args: Any) -> tuple[Jaxpr, Any]:
    """The closed jaxpr of `fun(*args)` and the tree of `ShapeDtypeStruct`s it returns."""
    return jax.make_jaxpr(fun, return_shape=True)(*args)


def is_concrete(x: Any) -> bool:
    """Whether x has a value that can be looked at now."""
    return not isinstance(x, jax.core.Tracer)


def close(jaxpr: Jaxpr) -> Jaxpr:
    return jaxpr if hasattr(jaxpr, "jaxpr") else jex.ClosedJaxpr(jaxpr, ())


def evaluate(eqn: Equation, *operands: Any) -> list[Any]:
    """Run one equation on values for its operands, literals included in `operands`."""
    jaxpr, inputs = alone(eqn, operands)
    return jex.jaxpr_as_fun(jaxpr)(*inputs)


def alone(eqn: Equation, operands: Sequence[Any]) -> tuple[Jaxpr, list[Any]]:
    """One equation as a jaxpr, and its inputs."""
    variables = [v for v in eqn.invars if not isinstance(v, Literal)]
    unique = list(dict.fromkeys(variables))
    values = {v: x for v, x in zip(eqn.invars, operands, strict=True) if not isinstance(v, Literal)}
    names = ("",) * len(unique), ("",) * len(eqn.outvars)
    jaxpr = jex.Jaxpr(
        constvars=[],
        invars=unique,
        outvars=list(eqn.outvars),
        eqns=[eqn],
        effects=eqn.effects,
        debug_info=jex.DebugInfo("estimand", eqn.primitive.name, *names),
    )
    return jex.ClosedJaxpr(jaxpr, ()), [values[v] for v in unique]


def as_function(jaxpr: Jaxpr) -> Callable:
    """The function of which it is the jaxpr, from flat inputs to flat outputs."""
    return jex.jaxpr_as_fun(close(jaxpr))


def subjaxprs(eqn: Equation) -> Iterator[Jaxpr]:
    """Every jaxpr among an equation's parameters, closed."""
    for param in eqn.params.values():
        for item in param if isinstance(param, tuple | list) else (param,):
            if hasattr(item, "eqns"):
                yield close(item)


def holds(jaxpr: Jaxpr, primitives: Collection[Any]) -> bool:
    """Whether an equation of one of the primitives is anywhere inside."""
    return any(
        eqn.primitive in primitives or any(holds(body, primitives) for body in subjaxprs(eqn))
        for eqn in close(jaxpr).jaxpr.eqns
    )


def called(eqn: Equation) -> tuple[str, str]:
    """The function that a call equation calls: its name and `file.py:12`."""
    (body,) = subjaxprs(eqn)
    name, _, place = body.jaxpr.debug_info.func_src_info.partition(" at ")
    return name, os.path.basename(place)


def scan_arity(eqn: Equation) -> tuple[int, int]:
    """The number of constants and of carries of a `scan` equation."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].unpack()  # from JAX 0.12 on
    return len(list(consts)), len(list(carry))


def scopes(eqn: Equation) -> tuple[str, ...]:
    """The address scopes (`em.scope`) that are open around an equation, outermost first."""
    names = (getattr(entry, "name", "") for entry in eqn.source_info.name_stack.stack)
    return tuple(name.removeprefix(SCOPE) for name in names if name.startswith(SCOPE))


def is_derivative(eqn: Equation) -> bool:
    """Whether an equation was made by differentiating, inside of the program."""
    names = [getattr(entry, "name", "") for entry in eqn.source_info.name_stack.stack]
    return DERIVATIVE in names


def bind_environment(jaxpr: Jaxpr, args: Sequence[Any]) -> dict[Var, Any]:
    closed = close(jaxpr)
    inner = closed.jaxpr
    env = dict(zip(inner.constvars, closed.consts, strict=True))
    env.update(zip(inner.invars, args, strict=True))
    return env


def read(env: dict[Var, Any], atom: Any) -> Any:
    return atom.val if isinstance(atom, Literal) else env[atom]


def with_constants(jaxpr: Jaxpr, consts: Sequence[Any]) -> Jaxpr:
    """The jaxpr with other values for its constants."""
    return jex.ClosedJaxpr(jaxpr.jaxpr, list(consts))


def with_equations(jaxpr: Jaxpr, eqns: Sequence[Equation]) -> Jaxpr:
    return jex.ClosedJaxpr(jaxpr.jaxpr.replace(eqns=list(eqns)), jaxpr.consts)


def replace_jaxprs(eqn: Equation, change: Callable[[Jaxpr], Jaxpr]) -> Equation:
    """The equation with each jaxpr among its parameters changed; itself if none is."""

    def one(item: Any) -> Any:
        if not hasattr(item, "eqns"):
            return item
        closed = close(item)
        changed = change(closed)
        if changed is closed:
            return item
        return changed if hasattr(item, "jaxpr") else changed.jaxpr

    params = {
        name: type(param)(map(one, param))
        if isinstance(param, tuple | list) and not hasattr(param, "_fields")
        else one(param)
        for name, param in eqn.params.items()
    }
    same = all(_same(params[name], param) for name, param in eqn.params.items())
    return eqn if same else eqn.replace(params=params)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple | list):
        return all(x is y for x, y in zip(a, b, strict=True))
    return a is b
