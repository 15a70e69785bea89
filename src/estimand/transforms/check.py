"""What would make an estimator biased, found before it runs.

A forward pass over the flat program. Of every value it knows whether it is `random` (a
continuous random value reaches it) and `moved` (a differentiated argument reaches it,
undetached). A value that is both jumps at a discontinuity at random, at a place that the
arguments move; its pathwise derivative misses that, so such an operation is refused, unless
it is one of the functions known to be continuous.

The same pass finds inner expectations used non-linearly, supports that do not fit, and
sites whose support the arguments move.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import jax.numpy as jnp

from estimand.errors import EstimandError, error
from estimand.transforms.continuous import has_kink, is_continuous, is_density
from estimand.transforms.flows import NONE, Flow, for_dtype, joint, ranges
from estimand.transforms.frontier import is_linear
from estimand.transforms.guards import is_inexact, refuse_derivative
from estimand.transforms.interpret import Path, split_at
from estimand.transforms.jaxprs import (
    Equation,
    Jaxpr,
    Literal,
    Var,
    called,
    close,
    is_concrete,
    is_derivative,
    scan_arity,
    subjaxprs,
)
from estimand.transforms.jumps import is_settled, jumps, range_after
from estimand.transforms.mistakes import (
    jump,
    kink,
    live_and_detached,
    loose_factor,
    moved_boundary,
    moving_carry,
    moving_support,
    nonlinear,
    scored_smoothed,
)
from estimand.transforms.plan import Plan
from estimand.transforms.primitives import Mark, Site, mark_p, sample_p
from estimand.transforms.sources import source_of
from estimand.transforms.supports import (
    bounding_leaves,
    constant_range,
    has_inner_edges,
    is_whole,
    lies_inside,
    supports_of,
)


def check(plan: Plan, differentiated: Sequence[bool]) -> EstimandError | None:
    """Raise for the first mistake of a planned program.

    Returns what is to be raised by a second derivative, if only a first one would be right.
    """
    _check_terms(plan)
    _check_aux(plan)
    walk = _Walk(plan)
    inputs = [Flow(moved=moved) for moved in differentiated]
    inner = close(plan.jaxpr).jaxpr
    walk.body(plan.jaxpr, inputs, (), {v for v in inner.outvars if not isinstance(v, Literal)})
    if walk.misfits:
        raise EstimandError(
            "the choices' supports do not fit:\n  - "
            + "\n  - ".join(dict.fromkeys(walk.misfits))
            + "\n  "
            "remedy:   sample each choice from a distribution whose support lies inside of that "
            "of the site that scores it"
        )
    return walk.kink


def guarded(plan: Plan, inputs: list[Any], owners: list[int]) -> list[Any]:
    """The inputs; those of an argument by which a derivative would be biased refuse to have one."""
    guarded = list(inputs)
    for owner in set(owners):
        mine = [i == owner for i in owners]
        try:
            check(plan, [m and is_inexact(x) for m, x in zip(mine, inputs, strict=True)])
        except EstimandError as mistake:
            why = partial(EstimandError, str(mistake))
            for k, x in enumerate(inputs):
                guarded[k] = refuse_derivative(x, why) if mine[k] else guarded[k]
    return guarded


class _Walk:
    def __init__(self, plan: Plan):
        self.plan = plan
        self.misfits: list[str] = []
        self.line, self.derived = "unknown source", False
        self.kink: EstimandError | None = None

    def body(self, jaxpr: Jaxpr, flows: Sequence[Flow], path: Path, wanted: set[Var]) -> list[Flow]:
        closed = close(jaxpr)
        inner = closed.jaxpr
        env: dict[Var, Flow] = dict(zip(inner.invars, flows, strict=True))
        for v, x in zip(inner.constvars, closed.consts, strict=True):
            moved = not is_concrete(x) and is_inexact(x)  # an outer transformation may move it
            env[v] = Flow(moved=moved, support=constant_range(x))
        live, used = _live(jaxpr, wanted)

        def read(atom: Any) -> Flow:
            if isinstance(atom, Literal):
                return Flow(support=constant_range(atom.val))
            return env.get(atom, NONE)

        for i, eqn in enumerate(inner.eqns):
            if i in live:
                with self._at(eqn):
                    outs = self._equation(eqn, [read(v) for v in eqn.invars], (*path, i), used)
                env.update(zip(eqn.outvars, outs, strict=True))
        return [read(v) for v in inner.outvars]

    @contextmanager
    def _at(self, eqn: Equation) -> Iterator[None]:
        """Remember, for equations inside: the user's innermost line, and a derivative."""
        outer, line = (self.line, self.derived), source_of(eqn)
        self.line = self.line if line == "unknown source" else line
        self.derived = self.derived or is_derivative(eqn)
        yield
        self.line, self.derived = outer

    def _equation(self, eqn: Equation, flows: list[Flow], path: Path, used: set[Var]) -> list[Flow]:
        name = eqn.primitive.name
        if eqn.primitive is sample_p:
            return [self._site(eqn, flows, path)]
        if eqn.primitive is mark_p:
            return [self._mark(eqn, flows[0])]
        if name == "scan":
            return self._scan(eqn, flows, path)
        if name == "while":
            return self._while(eqn, flows, path)
        if name == "cond":
            return self._cond(eqn, flows, path)
        bodies = list(subjaxprs(eqn))
        needed = [v in used for v in eqn.outvars]
        density = is_density(eqn) and not self.derived  # the derivative of one may jump
        smooth = density or is_continuous(eqn, needed, self.derived)
        if not smooth and len(bodies) == 1 and len(bodies[0].jaxpr.invars) == len(flows):
            return self._inside(bodies[0], flows, path)
        self._check_linear(eqn, flows)
        out = joint(flows)
        if density:
            self._density(eqn, flows)
        elif not smooth and out.rough and not is_settled(eqn, flows):
            reached = [flow.random or flow.moved for flow in flows]
            if jumps(eqn, reached, needed):
                apart = not any(flow.rough for flow in flows)
                raise jump(eqn.primitive.name, self.line, out.label, apart)
        if out.rough and self.kink is None and has_kink(eqn):
            what = "its density" if density else called(eqn)[0] if len(bodies) == 1 else name
            self.kink = kink(what, self.line, out.label)
        stopped = name == "stop_gradient"
        out = replace(out, moved=out.moved and not stopped, support=range_after(eqn, flows))
        return [for_dtype(out, v.aval) for v in eqn.outvars]

    def _inside(self, body: Jaxpr, flows: Sequence[Flow], path: Path) -> list[Flow]:
        inner = close(body).jaxpr
        wanted = {v for v in inner.outvars if not isinstance(v, Literal)}
        return self.body(body, flows, path, wanted)

    def _site(self, eqn: Equation, flows: list[Flow], path: Path) -> Flow:
        site: Site = eqn.params["site"]
        info = self.plan.sites[path]
        self._check_linear(eqn, flows)
        self.plan.moved[path] = tuple(flow.moved for flow in flows)
        strategy = self.plan.chosen[path].strategy
        avals = site.bare([v.aval for v in eqn.invars])
        bounding = [i for i in bounding_leaves(site.structure, avals) if flows[i].moved]
        differentiable = strategy.pathwise or strategy.through
        if bounding and not (differentiable or strategy.smooths):
            raise moving_support(info.where, site, bounding, strategy)
        supports = supports_of(site.structure, avals, ranges(flows))
        moved = differentiable and any(flow.moved for flow in flows)
        support = site.structure.placeholder(avals).support  # Levy's is None
        random = site.relaxed or support is None or not support.is_discrete
        known = supports[1] if supports and not site.relaxed else None
        return Flow(random, moved, support=known, label=info.where)

    def _mark(self, eqn: Equation, flow: Flow) -> Flow:
        mark: Mark = eqn.params["mark"]
        if mark.kind == "scored":
            own = self.plan.analysis.state(eqn.invars[0]).own
            if own is not None and self.plan.chosen[own].strategy.smooths:
                raise scored_smoothed(self.plan.sites[own], self.plan.chosen[own].strategy)
        if mark.kind == "expectation":
            return replace(flow, inner=flow.inner | {f"{mark.name} ({mark.source})"})
        if mark.kind == "observed":
            return replace(flow, observed=mark)
        if mark.kind in ("detach", "continuous"):
            return replace(flow, moved=False)
        if mark.kind == "factor":
            raise loose_factor(mark)
        return flow

    def _density(self, eqn: Equation, flows: list[Flow]) -> None:
        """A density is smooth in its interior: only its support may cause a jump."""
        value, mark = flows[0], flows[0].observed
        if mark is None:
            return
        site: Site = mark.info  # type: ignore[assignment]
        avals = site.bare([v.aval for v in eqn.invars[1:]])
        supports = supports_of(site.structure, avals, ranges(flows[1:]))
        if value.rough and has_inner_edges(site.structure.placeholder(avals)):
            raise moved_boundary(mark, site, value.label)
        if supports is not None and is_whole(supports[0]):
            return
        if supports is None or value.support is None:
            bounding = bounding_leaves(site.structure, avals)
            edge = joint([value, *(flows[1 + i] for i in bounding)])
            if edge.rough:
                raise moved_boundary(mark, site, edge.label)
        elif value.label and not lies_inside(value.support, supports[0]):
            self.misfits.append(
                f"{mark.name!r} ({site.source})\n      expected: values in {supports[0]!r}\n"
                f"      got:      values in {value.support!r} from {value.label}"
            )

    def _check_linear(self, eqn: Equation, flows: Sequence[Flow]) -> None:
        carrying = [i for i, flow in enumerate(flows) if flow.inner]
        if carrying and eqn.primitive.name != "stop_gradient" and not is_linear(eqn, carrying):
            raise nonlinear(eqn, sorted(joint(flows).inner))

    def _cond(self, eqn: Equation, flows: list[Flow], path: Path) -> list[Flow]:
        self._check_predicate(eqn, flows[0])
        results = [
            self._inside(body, flows[1:], (*path, i))
            for i, body in enumerate(eqn.params["branches"])
        ]
        return [joint(outs) for outs in zip(*results, strict=True)]

    def _check_predicate(self, eqn: Equation, flow: Flow) -> None:
        if flow.inner:
            raise nonlinear(eqn, sorted(flow.inner))

    def _scan(self, eqn: Equation, flows: list[Flow], path: Path) -> list[Flow]:
        num_consts, num_carry = scan_arity(eqn)
        consts, carry, xs = split_at(flows, num_consts, num_carry)

        def step(carry: list[Flow]) -> list[Flow]:
            return self._inside(eqn.params["jaxpr"], [*consts, *carry, *xs], path)

        carry, outs = _fixpoint(step, carry)
        return [*carry, *outs[num_carry:]]

    def _while(self, eqn: Equation, flows: list[Flow], path: Path) -> list[Flow]:
        sizes = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        cond_consts, body_consts, carry = split_at(flows, *sizes)

        def step(carry: list[Flow]) -> list[Flow]:
            return self._inside(eqn.params["body_jaxpr"], [*body_consts, *carry], (*path, "body"))

        carry, _ = _fixpoint(step, carry)
        (stop,) = self._inside(eqn.params["cond_jaxpr"], [*cond_consts, *carry], (*path, "cond"))
        self._check_predicate(eqn, stop)
        if any(p[: len(path)] == path for p in self.plan.sites) and any(f.moved for f in carry):
            raise moving_carry(eqn)
        return carry


def _fixpoint(step: Callable, carry: list[Flow]) -> tuple[list[Flow], list[Flow]]:
    while True:
        outs = step(carry)
        new = [joint([a, b]) for a, b in zip(carry, outs, strict=False)]
        if new == carry:
            return carry, outs
        carry = new


def _live(jaxpr: Jaxpr, wanted: set[Var]) -> tuple[set[int], set[Var]]:
    """The equations and variables that are used: a jump nobody reads does no harm."""
    needed, live = set(wanted), set()
    eqns = close(jaxpr).jaxpr.eqns
    for i in reversed(range(len(eqns))):
        always = eqns[i].primitive is sample_p or _is_factor(eqns[i])
        if always or any(v in needed for v in eqns[i].outvars):
            live.add(i)
            needed.update(v for v in eqns[i].invars if not isinstance(v, Literal))
    return live, needed


def _is_factor(eqn: Equation) -> bool:
    return eqn.primitive is mark_p and eqn.params["mark"].kind == "factor"


def _check_terms(plan: Plan) -> None:
    for term in plan.terms:
        for path, dep in term.deps.items():
            if dep.live and dep.detached:
                raise live_and_detached(plan.sites[path].where, term.source)


def _check_aux(plan: Plan) -> None:
    for k, v in enumerate(close(plan.jaxpr).jaxpr.outvars[1:]):
        lifted = [p for p in plan.analysis.state(v).deps if plan.points[p] > 1]
        if lifted and not jnp.issubdtype(v.aval.dtype, jnp.inexact):
            raise error(
                plan.sites[lifted[0]].where,
                f"leaf {k} of aux depends on this site, which takes several values at once",
                expected="floating aux, which is averaged over the values",
                got=str(v.aval.dtype),
                remedy="cast that leaf of aux to float, or give the site Score()",
            )
