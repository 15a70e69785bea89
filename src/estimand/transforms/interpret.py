"""Running a jaxpr with an interpretation of its sites and marks.

Problem: `seed`, `simulate` and `assess` each read a program's sites in their own way, but
all must find them inside `scan`, `cond`, `while`, `jit`, `checkpoint` and custom
derivative rules, in any nesting.

Contract: a `Handler` says what a site and a mark are. Where an equation has sites inside,
its body is run by a child handler. What a child needs (keys, the choices of one step)
travels in as a pytree, what it found (choices, log densities) travels out as one, both as
ordinary inputs and outputs of the rebuilt loop or branch. Every other equation runs as is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from estimand.errors import EstimandError, error
from estimand.transforms.guards import refuse_derivative
from estimand.transforms.jaxprs import (
    Equation,
    Jaxpr,
    bind_environment,
    called,
    close,
    evaluate,
    holds,
    read,
    scan_arity,
    scopes,
    subjaxprs,
    trace,
)
from estimand.transforms.primitives import RANDOM, Estimated, estimated_p, mark_p, sample_p
from estimand.transforms.sources import at_source, source_of

Path = tuple[Any, ...]  # where an equation is: indices and, for a cond, the branch


class Handler:
    """The reading of a program's sites; see the module's contract.

    `alive` says, in a loop that `vmap` made one loop for all lanes, which of them still run.
    """

    alive: Any = None

    def site(self, eqn: Equation, path: Path, address: str, leaves: list[Any]) -> Any:
        raise NotImplementedError

    def estimated(
        self, eqn: Equation, path: Path, scope: tuple[str, ...], operands: list[Any]
    ) -> list[Any]:
        """The values of a program whose density is estimated: by default, run it."""
        return interpret(drawing(eqn), operands, self, path, scope)

    def mark(self, eqn: Equation, path: Path, address: str, x: Any) -> Any:
        return x

    def fork(self, eqn: Equation, path: Path, scope: tuple[str, ...], n: int | None) -> Any:
        """What children need: stacked for n steps, or one for a branch (n None)."""
        return None

    def child(self, incoming: Any) -> "Handler":
        raise NotImplementedError

    def open(self, eqn: Equation, operands: list, path: Path, scope: tuple[str, ...]) -> list[Any]:
        """Run an equation with sites inside, by the rule for its kind."""
        rule = RULES.get(eqn.primitive.name)
        if rule is None:
            raise _no_rule(eqn)
        with at_source(eqn):
            return rule(eqn, operands, self, path, scope)

    def leave(self, path: Path, env: dict[Any, Any]) -> None:
        """The body at `path` has run, with these values of its variables."""

    def outgoing(self) -> dict[Any, Any]:
        """What this child found."""
        return {}

    def absorb(self, outgoing: dict[Any, Any]) -> None:
        """Take over what a child found."""

    def taken(self, outgoing: dict[Any, Any]) -> dict[Any, Any]:
        """Of a branch's `outgoing`: what to record where another branch was taken."""
        return jax.tree.map(jnp.zeros_like, outgoing)


def has_sites(jaxpr: Jaxpr) -> bool:
    """Whether a site or a mark is anywhere inside."""
    return holds(jaxpr, (*RANDOM, mark_p))


def interpret(
    jaxpr: Jaxpr,
    args: Sequence[Any],
    handler: Handler,
    path: Path = (),
    scope: tuple[str, ...] = (),
) -> list[Any]:
    """Run a jaxpr, giving its sites and marks to the handler."""
    env = bind_environment(jaxpr, args)
    inner = close(jaxpr).jaxpr
    for i, eqn in enumerate(inner.eqns):
        operands = [read(env, v) for v in eqn.invars]
        here, around = (*path, i), (*scope, *scopes(eqn))
        if eqn.primitive is sample_p:
            outs = [handler.site(eqn, here, address(around, eqn.params["site"].name), operands)]
        elif eqn.primitive is estimated_p:
            outs = handler.estimated(eqn, here, around, operands)
        elif eqn.primitive is mark_p:
            name = address(around, eqn.params["mark"].name)
            outs = [handler.mark(eqn, here, name, operands[0])]
        elif any(has_sites(sub) for sub in subjaxprs(eqn)):
            outs = handler.open(eqn, operands, here, around)
        else:
            outs = evaluate(eqn, *operands)
        env.update(zip(eqn.outvars, outs, strict=True))
    handler.leave(path, env)
    return [read(env, v) for v in inner.outvars]


def drawing(eqn: Equation) -> Jaxpr:
    """The program that draws the values of an `estimated` equation, of its operands."""
    law: Estimated = eqn.params["law"]
    avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    return trace(law.over_lanes(law.draw), *avals)[0]


def address(scope: tuple[str, ...], name: str | None) -> str:
    return "/".join((*scope, name)) if name else ""


def _inline(eqn: Equation, operands: list, handler: Handler, path: Path, scope: Any) -> list[Any]:
    (body,) = subjaxprs(eqn)
    return interpret(body, operands, handler, path, scope)


def _custom(eqn: Equation, operands: list, handler: Handler, path: Path, scope: Any) -> list[Any]:
    """Inlined, and so without its rule: it may run, it may not be differentiated."""
    operands = refuse_derivative(operands, lambda: custom_rule_lost(eqn))
    return _inline(eqn, operands, handler, path, scope)


def _checkpoint(
    eqn: Equation, operands: list, handler: Handler, path: Path, scope: Any
) -> list[Any]:
    (body,) = subjaxprs(eqn)

    def run(incoming: Any, operands: list) -> Any:
        child = handler.child(incoming)
        return interpret(body, operands, child, path, scope), child.outgoing()

    kept = {k: eqn.params[k] for k in ("prevent_cse", "policy")}
    run = jax.checkpoint(run, **kept)  # type: ignore[assignment]
    outs, outgoing = run(handler.fork(eqn, path, scope, None), operands)
    handler.absorb(outgoing)
    return outs


def _scan(eqn: Equation, operands: list, handler: Handler, path: Path, scope: Any) -> list[Any]:
    (body,) = subjaxprs(eqn)
    num_consts, num_carry = scan_arity(eqn)
    consts, init, xs = split_at(operands, num_consts, num_carry)

    def step(carry: list, x: Any) -> Any:
        incoming, x = x
        child = handler.child(incoming)
        outs = interpret(body, [*consts, *carry, *x], child, path, scope)
        return outs[:num_carry], (outs[num_carry:], child.outgoing())

    incoming = handler.fork(eqn, path, scope, eqn.params["length"])
    options = {k: eqn.params[k] for k in ("length", "reverse", "unroll")}
    carry, (ys, outgoing) = lax.scan(step, init, (incoming, xs), **options)
    handler.absorb(outgoing)
    return [*carry, *ys]


def _cond(eqn: Equation, operands: list, handler: Handler, path: Path, scope: Any) -> list[Any]:
    index, *rest = operands
    incoming = handler.fork(eqn, path, scope, None)

    def branch(i: int, body: Jaxpr) -> Callable:
        def run(incoming: Any, *operands: Any) -> Any:
            child = handler.child(incoming)
            return interpret(body, operands, child, (*path, i), scope), child.outgoing()

        return run

    branches = [branch(i, body) for i, body in enumerate(eqn.params["branches"])]
    found = [jax.eval_shape(run, incoming, *rest)[1] for run in branches]

    def padded(run: Callable) -> Callable:
        def run_padded(*args: Any) -> Any:
            outs, outgoing = run(*args)
            missing = {}
            for other in found:
                missing.update({k: v for k, v in other.items() if k not in outgoing})
            return outs, dict(sorted({**outgoing, **handler.taken(missing)}.items()))

        return run_padded

    outs, outgoing = lax.switch(index, [padded(run) for run in branches], incoming, *rest)
    handler.absorb(outgoing)
    return outs


def _while(eqn: Equation, operands: list, handler: Handler, path: Path, scope: Any) -> list[Any]:
    cond, body = close(eqn.params["cond_jaxpr"]), close(eqn.params["body_jaxpr"])
    cond_consts, body_consts, init = split_at(
        operands, eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    )
    refuse_site_in_predicate(eqn)

    def step(state: Any) -> Any:
        left, carry = state
        left, incoming = _halves(handler.child(left).fork(eqn, path, scope, 2))
        child = handler.child(incoming)
        outs = interpret(body, [*body_consts, *carry], child, (*path, "body"), scope)
        return left, going_on(going(carry), outs, carry)

    def going(carry: list) -> Any:
        return evaluate_closed(cond, [*cond_consts, *carry])[0]

    def proceed(state: Any) -> Any:
        return jnp.any(going(state[1]))

    left, _ = _halves(handler.fork(eqn, path, scope, 2))
    return lax.while_loop(proceed, step, (left, init))[1]


def going_on(going: Any, new: list, old: list) -> list:
    """The carry of a loop that a `vmap` made one loop for all lanes: those that ended stay."""

    def lanes(a: Any, b: Any) -> Any:
        return jnp.where(going.reshape(going.shape + (1,) * (a.ndim - going.ndim)), a, b)

    return [lanes(a, b) for a, b in zip(new, old, strict=True)] if going.ndim else new


def refuse_site_in_predicate(eqn: Equation) -> None:
    if has_sites(eqn.params["cond_jaxpr"]):
        raise error(
            f"while_loop ({source_of(eqn)})",
            "its predicate holds a site",
            expected="random values in the loop's body only",
            got="a site inside cond_fun",
            remedy="sample in the body and carry the value to the predicate",
        )


def _halves(pair: Any) -> tuple[Any, Any]:
    return jax.tree.map(lambda x: x[0], pair), jax.tree.map(lambda x: x[1], pair)


RULES: dict[str, Callable] = {
    "jit": _inline,
    "pjit": _inline,
    "closed_call": _inline,
    "core_call": _inline,
    "custom_jvp_call": _custom,
    "custom_vjp_call": _custom,
    "custom_vjp_call_jaxpr": _custom,
    "remat2": _checkpoint,
    "checkpoint": _checkpoint,
    "scan": _scan,
    "cond": _cond,
    "while": _while,
}


def split_at(items: Sequence[Any], *sizes: int) -> list[list[Any]]:
    parts, start = [], 0
    for size in sizes:
        parts.append(list(items[start : start + size]))
        start += size
    return [*parts, list(items[start:])]


def evaluate_closed(jaxpr: Jaxpr, args: Sequence[Any]) -> list[Any]:
    """Run a jaxpr that has no sites."""
    return interpret(jaxpr, args, Handler())


def custom_rule_lost(eqn: Equation) -> EstimandError:
    name, line = called(eqn)
    return error(
        f"{name} ({line})",
        "a site inside a function with a custom derivative rule was differentiated",
        expected="sites outside of custom_jvp and custom_vjp functions",
        got=f"a site inside {name}, whose rule knows nothing of it",
        remedy="draw the random value outside and pass it to the function as an argument",
    )


def _no_rule(eqn: Equation) -> EstimandError:
    return error(
        f"{eqn.primitive.name} ({source_of(eqn)})",
        "a site is inside an operation that estimand cannot look into",
        expected=f"sites inside {', '.join(sorted(set(RULES) - {'pjit', 'core_call'}))} only",
        got=f"a site inside {eqn.primitive.name}",
        remedy="draw the random value outside of it",
    )
