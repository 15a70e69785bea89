"""The linear rest of a program, evaluated on its combined terms.

At the top it is the linear equations themselves. A linear scan is run again with its body's
linear part only: the combined terms of its steps, and the coefficients recorded when it ran
forward, come in as inputs of each step.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from estimand.transforms.dependence import Analysis
from estimand.transforms.frontier import Frontier
from estimand.transforms.interpret import Path, split_at
from estimand.transforms.jaxprs import Equation, Literal, Var, close, evaluate, scan_arity
from estimand.transforms.plan import Plan
from estimand.transforms.primitives import mark_p

Tapped = dict[tuple[Path, Var], Any]  # values of a body's variables, steps leading


def taps(plan: Plan, path: Path) -> dict[tuple[Path, Var], str]:
    """What the forward run of the equation at `path` must record, with a name for each."""
    if path[-1] not in plan.front.bodies:
        return {}
    found = _body_taps(plan.analysis, plan.front, path)
    return {tap: f"tap {i}" for i, tap in enumerate(found)}


def _body_taps(analysis: Analysis, front: Frontier, path: Path) -> list[tuple[Path, Var]]:
    inside, body = front.bodies[path[-1]], analysis.bodies[path]
    inner = close(body.jaxpr).jaxpr
    eqn = close(analysis.jaxpr).jaxpr.eqns[path[-1]]
    num_consts, num_carry = scan_arity(eqn)
    carries = inner.invars[num_consts : num_consts + num_carry]
    given = set(inner.invars) - set(carries)
    used = [v for i in inside.equations for v in inner.eqns[i].invars]
    used += [inner.outvars[k] for k in _outputs(eqn, front, inside)]
    free = [v for v in used if not isinstance(v, Literal) and v not in inside.linear | given]
    found = [(path, v) for v in dict.fromkeys([*inside.terms, *free])]
    for i in inside.bodies:
        found += _body_taps(body, inside, (*path, i))
    return found


def _outputs(eqn: Equation, front: Frontier, inside: Frontier) -> list[int]:
    """The outputs of a linear scan that are wanted: reached ones and linear carries."""
    reached = {k for k, v in enumerate(eqn.outvars) if v in front.linear}
    return sorted(reached | set(inside.slots))


class Linear:
    """Evaluates the linear part; `combined` are the terms, `tapped` recorded coefficients."""

    def __init__(self, plan: Plan, combined: Tapped, free: Callable[[Var], Any], tapped: Tapped):
        self.plan, self.free = plan, free
        self.recorded = {**tapped, **combined}

    def outputs(self) -> list[Any]:
        plan = self.plan
        env = {v: self.recorded[(), v] for v in plan.front.terms}
        self._level(plan.analysis, plan.front, (), env, self.free, self.recorded)
        outs = close(plan.jaxpr).jaxpr.outvars
        return [_read(v, plan.front, env, self.free) for v in outs]

    def _level(
        self,
        analysis: Analysis,
        front: Frontier,
        path: Path,
        env: dict[Var, Any],
        free: Callable[[Var], Any],
        recorded: Tapped,
    ) -> None:
        """Extend env, which has the terms and linear inputs, by all linear values."""
        equations = close(analysis.jaxpr).jaxpr.eqns
        for i in front.equations:
            eqn = equations[i]
            operands = [_read(v, front, env, free) for v in eqn.invars]
            if eqn.primitive is mark_p:
                outs = operands
            elif eqn.primitive.name == "scan":
                outs = self._scan(eqn, operands, analysis, front, (*path, i), recorded)
            else:
                outs = evaluate(eqn, *operands)
            env.update(zip(eqn.outvars, outs, strict=True))

    def _scan(
        self,
        eqn: Equation,
        operands: list[Any],
        analysis: Analysis,
        front: Frontier,
        path: Path,
        recorded: Tapped,
    ) -> list[Any]:
        inside, body = front.bodies[path[-1]], analysis.bodies[path]
        inner = close(body.jaxpr).jaxpr
        num_consts, num_carry = scan_arity(eqn)
        consts, init, xs = split_at(operands, num_consts, num_carry)
        const_vars, carry_vars, x_vars = split_at(inner.invars, num_consts, num_carry)
        slots, wanted = sorted(inside.slots), _outputs(eqn, front, inside)
        mine = [tap for tap in recorded if tap[0][: len(path)] == path]

        def step(carry: list, x: Any) -> Any:
            stacked, xs = x
            here = dict(zip(mine, stacked, strict=True))
            given = dict(zip([*const_vars, *x_vars], [*consts, *xs], strict=True))
            env = {v: here[path, v] for v in inside.terms}
            env.update((v, x) for v, x in given.items() if v in inside.linear)
            env.update((carry_vars[k], c) for k, c in zip(slots, carry, strict=True))

            def free(v: Var) -> Any:
                return given[v] if v in given else here[path, v]

            self._level(body, inside, path, env, free, here)
            outs = {k: _read(inner.outvars[k], inside, env, free) for k in wanted}
            return [outs[k] for k in slots], [outs[k] for k in wanted if k >= num_carry]

        options = {k: eqn.params[k] for k in ("length", "reverse", "unroll")}
        stacked = [recorded[tap] for tap in mine]
        carry, ys = lax.scan(step, [init[k] for k in slots], (stacked, xs), **options)
        found = dict(zip(slots, carry, strict=True))
        found.update(zip([k for k in wanted if k >= num_carry], ys, strict=True))
        return [found.get(k) for k in range(len(eqn.outvars))]


def _read(atom: Any, front: Frontier, env: dict[Var, Any], free: Callable[[Var], Any]) -> Any:
    if isinstance(atom, Literal):
        return jnp.asarray(atom.val)
    return env[atom] if atom in front.linear else free(atom)
