"""Evaluating a planned program once, on values that carry named axes.

A site with m > 1 points gives its value a leading axis, named by the site's turn. Every
equation is evaluated once, batched over the union of its operands' named axes; nothing is
evaluated per path. Where a term of the objective is reached it is combined over the sites
that reach it, latest first, and is an ordinary array again; the linear rest of the
objective is evaluated on those.

Correctness. Let T be a term and s its latest site. Given everything before s, T is a
function f of s's value alone (the noise of pathwise sites being fixed: one key per site on
every lifted lane), so the contract of s's strategy replaces T by a surrogate of E_s[T]. That
is a function of the earlier sites, and so on to the first. Expectation goes through the
linear rest.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from estimand.errors import EstimandError
from estimand.transforms.combine import Drawn, Lifted, combine, lifted, plain, with_replacements
from estimand.transforms.draws import Draw
from estimand.transforms.guards import refuse_second_derivative
from estimand.transforms.interpret import Path, has_sites
from estimand.transforms.jaxprs import (
    Equation,
    Literal,
    Var,
    bind_environment,
    close,
    evaluate,
    subjaxprs,
)
from estimand.transforms.linear import Linear, taps
from estimand.transforms.mistakes import cannot_be_mapped, no_vmap_method
from estimand.transforms.places import SiteInfo
from estimand.transforms.plan import Plan, Term
from estimand.transforms.primitives import mark_p, sample_p
from estimand.transforms.strategy import Law, shape_of_points

NO_ZEROS: Mapping[Path, Sequence[Any]] = MappingProxyType({})


class Env(dict):
    """Variables to lifted values; literals read as themselves."""

    def read(self, atom: Any) -> Lifted:
        return Lifted(atom.val, ()) if isinstance(atom, Literal) else self[atom]


def run(
    plan: Plan,
    inputs: Sequence[Any],
    key: Any,
    states: Mapping[Path, Any],
    zeros: Mapping[Path, Sequence[Any]] = NO_ZEROS,
) -> tuple[list[Any], Any]:
    """The surrogates of the program's outputs, and the sum of the control variates.

    `states` are those of the strategies that have one, by the path of the site; `zeros` are
    added to the leaves of sites, so that the surrogate can be differentiated in these.
    """
    lift = Forward(plan, key, states, zeros)
    env = lift.run(inputs)
    combined = {(term.path, term.var): lift.combine_term(term, env) for term in plan.terms}
    tapped = {tap: plain(x) for tap, x in lift.taps.items() if tap not in combined}
    linear = Linear(plan, combined, lambda v: plain(env[v]), tapped)
    return linear.outputs(), lift.control()


class Forward:
    def __init__(
        self,
        plan: Plan,
        key: Any,
        states: Mapping[Path, Any],
        zeros: Mapping[Path, Sequence[Any]] = NO_ZEROS,
    ):
        self.plan, self.key, self.states, self.zeros = plan, key, states, zeros
        self.drawn: dict[Path, Drawn] = {}
        self.taps: dict[tuple[Path, Var], Lifted] = {}
        self.guarded: dict[frozenset[int], Env] = {}

    def run(self, inputs: Sequence[Any]) -> Env:
        env = Env()
        bound = bind_environment(self.plan.jaxpr, inputs)
        values = list(bound.values())
        if self.plan.first_order_only:
            why = partial(EstimandError, str(self.plan.first_order_only))
            values = refuse_second_derivative(values, why)
        env.update((v, Lifted(x, ())) for v, x in zip(bound, values, strict=True))
        for i, eqn in enumerate(close(self.plan.jaxpr).jaxpr.eqns):
            if i not in self.plan.forward:
                continue
            operands = self._met(eqn, [env.read(v) for v in eqn.invars])
            if eqn.primitive is sample_p:
                outs = [self._site(self.plan.sites[i,], operands)]
            else:
                outs = self._equation(eqn, i, operands)
            env.update(zip(eqn.outvars, outs, strict=True))
        return env

    def _site(self, info: SiteInfo, leaves: list[Lifted]) -> Lifted:
        strategy = self.plan.chosen[info.path].strategy
        joint = self.plan.joint.get(info.path, frozenset())
        key, state = jax.random.fold_in(self.key, info.order), self.states.get(info.path)
        one = close(self.plan.jaxpr).jaxpr.eqns[info.path[0]].outvars[0].aval.shape
        m = 1 if strategy.pathwise or strategy.meets else self.plan.points[info.path]
        if info.path in self.zeros:
            pairs = zip(leaves, self.zeros[info.path], strict=True)
            leaves = [x if z is None else Lifted(x.array + z, x.axes) for x, z in pairs]

        def law(leaves: Sequence[Any]) -> Law:
            return Law(info.site, list(leaves), info.shape, joint, {}, info.label, key, state)

        def points(*leaves: Any) -> list[Any]:
            found = jnp.asarray(strategy.points(key, law(leaves)))
            shape = shape_of_points(found.shape, one, m, strategy.fixed_points)
            found = law(leaves).shaped(strategy, "points", found, shape)
            return [found.astype(float) if info.site.relaxed else found]  # as the program has it

        def before(*leaves: Any) -> list[Any]:
            found = strategy.before(law(leaves))
            return [] if found is None else [found]

        if strategy.fixed_points:
            (grid,) = points(*(plain(x) for x in leaves))
            values = Lifted(grid, (info.order,))
        else:
            (values,) = lifted(points, leaves)
            if values.array.ndim > len(values.axes) + len(one):
                values = Lifted(values.array, (*values.axes, info.order))
        if not strategy.pathwise:
            known = next(iter(lifted(before, leaves)), None)
            self.drawn[info.path] = Drawn(
                info, strategy, joint, values, leaves, before=known, key=key, state=state
            )
        return self.drawn[info.path].alive(()) if strategy.fixed_points else values

    def _met(self, eqn: Equation, operands: list[Lifted]) -> list[Lifted]:
        """The operands; where lanes meet whose strategy asks for it, each replaced in turn."""
        for info in self.plan.sites.values():
            for k, axis in enumerate(self.plan.meeting(eqn, info.path)):
                if axis is not None:
                    operands[k] = with_replacements(operands[k], info.order, axis)
        return operands

    def _equation(self, eqn: Equation, i: int, operands: list[Lifted]) -> list[Lifted]:
        tapped = taps(self.plan, (i,))
        if eqn.primitive is mark_p:
            return operands
        axes = [axis for x in operands for axis in x.axes]
        callback = axes and cannot_be_mapped(eqn)
        if callback:
            info = next(info for info in self.plan.sites.values() if info.order == max(axes))
            raise no_vmap_method(info.where, self.plan.chosen[info.path].strategy, callback)
        if not tapped and not any(has_sites(body) for body in subjaxprs(eqn)):
            return lifted(lambda *xs: evaluate(eqn, *xs), operands)
        key = jax.random.fold_in(self.key, len(self.plan.sites) + i)
        names: list[Any] = []

        def opened(*xs: Any) -> list[Any]:
            handler = Draw(self.plan, key, tapped, self.states)
            outs = handler.open(eqn, list(xs), (i,), ())
            names[:] = sorted(handler.records)
            return [*outs, *(handler.records[name] for name in names)]

        results = lifted(opened, operands)
        outs, records = results[: len(eqn.outvars)], results[len(eqn.outvars) :]
        found = dict(zip(names, records, strict=True))
        for path, info in self.plan.sites.items():
            if path[0] == i and self.plan.weighted(path):
                strategy = self.plan.chosen[path].strategy
                recorded = found[f"site {path}"]
                values = found.get(f"draw {path}", Lifted(None, ()))
                joint, before = self.plan.joint[path], found.get(f"before {path}")
                state = self.states.get(path)
                self.drawn[path] = Drawn(
                    info, strategy, joint, values, (), recorded, before, state=state
                )
        for (path, var), name in tapped.items():
            self.taps[path, var] = found[name]
        return outs

    def combine_term(self, term: Term, env: Env) -> Any:
        value = self.taps[term.path, term.var] if term.path else self._guarded(term, env)
        paths = sorted(term.deps, key=lambda p: self.plan.sites[p].order, reverse=True)
        for path in paths:
            value = combine(value, term.deps[path], self.drawn[path])
        return plain(value).astype(term.var.aval.dtype)

    def _guarded(self, term: Term, env: Env) -> Lifted:
        """The term, with points that are impossible given its other axes replaced first."""
        axes = env[term.var].axes
        sites = {
            path: drawn.alive(axes)
            for path, drawn in self.drawn.items()
            if drawn.strategy.fixed_points
            and drawn.info.order in axes
            and set(drawn.law_axes) & set(axes)
        }
        if not sites:
            return env[term.var]
        if frozenset(axes) not in self.guarded:
            self.guarded[frozenset(axes)] = self._again(sites, env, axes)
        return self.guarded[frozenset(axes)].get(term.var, env[term.var])

    def _again(self, sites: dict[Path, Lifted], env: Env, axes: Sequence[int]) -> Env:
        """What the replaced points change, re-evaluated where no further axis is involved."""
        changed = Env()
        for i, eqn in enumerate(close(self.plan.jaxpr).jaxpr.eqns):
            if (i,) in sites:
                changed[eqn.outvars[0]] = sites[i,]
            if eqn.primitive is sample_p and self.plan.weighted((i,)):
                continue  # its points are settled
            reads = [v for v in eqn.invars if not isinstance(v, Literal) and v in changed]
            if i not in self.plan.forward or not reads:
                continue
            operands = [
                changed[v] if not isinstance(v, Literal) and v in changed else env.read(v)
                for v in eqn.invars
            ]
            operands = self._met(eqn, operands)
            if all(set(x.axes) <= set(axes) for x in operands):
                if eqn.primitive is sample_p:
                    changed[eqn.outvars[0]] = self._site(self.plan.sites[i,], operands)
                else:
                    outs = self._equation(eqn, i, operands)
                    changed.update(zip(eqn.outvars, outs, strict=True))
        return changed

    def control(self) -> Any:
        """The sum of the strategies' control variates.

        Given all that comes before its site, at any points, the mean of one is zero as a function
        of the parameters, and so are its derivatives' and any weighted mean over these points:
        earlier sites are combined with detached laws, for none is to be credited with it.
        """
        total: Any = 0.0
        scored = {p for term in self.plan.terms for p, dep in term.deps.items() if dep.live}
        for path, drawn in self.drawn.items():
            value = drawn.control() if path in scored else None
            if value is None:
                continue
            deps = self.plan.parents(path)
            for p in sorted(deps, key=lambda p: self.plan.sites[p].order, reverse=True):
                value = combine(value, deps[p]._replace(live=False), self.drawn[p])
            total = total + jnp.sum(plain(value))
        return total
