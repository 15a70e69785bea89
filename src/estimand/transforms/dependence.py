"""Which sites reach which values, and along which axes.

A forward pass over a program. For every value and every weighted site that reaches it
(pathwise sites need no weights and are looked through) it finds

- `places`: for each lane axis of the site, the axis of the value that follows it and how:
  "=" entry i from lane i alone, "<" from lanes up to i, ">" from i on; None where lanes mix;
- `live` and `detached`: whether some path to the site carries its derivative, and whether
  some path was detached. Both ignore ordinary stop_gradients: logsumexp and softmax contain
  them, and a score must still multiply what they compute.

Inside a scan the step is one more axis, written as a `Step`. A carry brings what was "="
at this step to the next one as "<" (">" in a reversed scan); carries run to a fixpoint.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from estimand.transforms.alignment import AxisMap, axis_maps
from estimand.transforms.distributions import promoting, value_aval
from estimand.transforms.interpret import Path, split_at
from estimand.transforms.jaxprs import (
    Equation,
    Jaxpr,
    Literal,
    Var,
    close,
    scan_arity,
    subjaxprs,
    trace,
)
from estimand.transforms.places import (
    NOTHING,
    Dep,
    Place,
    SiteInfo,
    State,
    Step,
    age,
    carry_over,
    detached,
    forget,
    join,
    relabel,
)
from estimand.transforms.primitives import Site, mark_p, sample_p


@dataclass
class Analysis:
    """The states of one jaxpr's variables; a body's analysis is under its equation."""

    jaxpr: Jaxpr
    env: dict[Var, State] = field(default_factory=dict)
    bodies: dict[Path, "Analysis"] = field(default_factory=dict)

    def state(self, atom: Any) -> State:
        return NOTHING if isinstance(atom, Literal) else self.env.get(atom, NOTHING)


class Dependence:
    """The pass. `weighted(site)` says which sites to track; `sites` collects all of them."""

    def __init__(self, weighted: Any):
        self.weighted = weighted
        self.sites: dict[Path, SiteInfo] = {}

    def analyse(
        self,
        jaxpr: Jaxpr,
        inputs: Sequence[State],
        path: Path = (),
        steps: tuple[int, ...] = (),
        context: tuple[str, ...] = (),
    ) -> Analysis:
        inner = close(jaxpr).jaxpr
        found = Analysis(jaxpr, dict(zip(inner.invars, inputs, strict=True)))
        where = _Where(path, steps, context)
        makers: dict[Var, Equation] = {}
        for i, eqn in enumerate(inner.eqns):
            states = _unstop_selected(eqn, [found.state(v) for v in eqn.invars], makers, found)
            outs = self._equation(eqn, states, replace(where, path=(*path, i)), found)
            found.env.update(zip(eqn.outvars, outs, strict=True))
            makers.update((v, eqn) for v in eqn.outvars)
        return found

    def outputs(self, found: Analysis) -> list[State]:
        return [found.state(v) for v in close(found.jaxpr).jaxpr.outvars]

    def _equation(
        self, eqn: Equation, states: list[State], at: "_Where", found: Analysis
    ) -> list[State]:
        name = eqn.primitive.name
        if eqn.primitive is sample_p:
            return [self._site(eqn, states, at)]
        if eqn.primitive is mark_p and eqn.params["mark"].kind == "detach":
            return [detached(states[0])]
        if name == "stop_gradient" and states[0].own is not None:
            return [detached(states[0])]
        if name == "scan":
            return self._scan(eqn, states, at, found)
        if name == "while":
            return self._while(eqn, states, at, found)
        if name == "cond":
            return self._cond(eqn, states, at, found)
        if name == "optimization_barrier":
            return states
        bodies = list(subjaxprs(eqn))
        if len(bodies) == 1 and len(close(bodies[0]).jaxpr.invars) == len(states):
            inside = (*at.context, "checkpoint") if "prevent_cse" in eqn.params else at.context
            return self._body(bodies[0], states, replace(at, context=inside), found)
        maps = axis_maps(eqn) if states else []
        deps = join([carry_over(s.deps, m) for s, m in zip(states, maps, strict=True)])
        own = states[0].own if name in STRUCTURAL and states else None
        return [State(deps, own) for _ in eqn.outvars]

    def _body(
        self, body: Jaxpr, states: Sequence[State], at: "_Where", found: Analysis
    ) -> list[State]:
        analysis = self.analyse(body, states, at.path, at.steps, at.context)
        found.bodies[at.path] = analysis
        return self.outputs(analysis)

    def _site(self, eqn: Equation, states: list[State], at: "_Where") -> State:
        site: Site = eqn.params["site"]
        avals = tuple(v.aval for v in eqn.invars)
        info = self._info(eqn, site, avals, at)
        maps = leaf_maps(site, avals)
        deps = join([carry_over(s.deps, m) for s, m in zip(states, maps, strict=True)])
        if self.weighted(info):
            lanes = range(len(info.shape) - info.steps)
            places: list[Place] = [(Step(k), "=") for k in range(info.steps)]
            places += [None if info.steps + j in info.mixed else (j, "=") for j in lanes]
            if "while" in at.context:
                places = [None] * len(places)
            deps = join([deps, {at.path: Dep(tuple(places))}])
        return State(deps, at.path)

    def _info(self, eqn: Equation, site: Site, avals: Any, at: "_Where") -> SiteInfo:
        event = len(_shapes(site.structure, site.bare(avals))[1])
        shape = eqn.outvars[0].aval.shape
        lanes = shape[: len(shape) - event]
        steps = len(at.steps)
        apart = native_axes(site.structure, site.bare(avals))[1]
        mixed = [steps + len(site.lanes) + j for j, ok in enumerate(apart) if not ok]
        order = self.sites[at.path].order if at.path in self.sites else len(self.sites)
        info = SiteInfo(
            at.path, site, avals, (*at.steps, *lanes), steps, at.context, frozenset(mixed), order
        )
        self.sites[at.path] = info
        return info

    def _cond(
        self, eqn: Equation, states: list[State], at: "_Where", found: Analysis
    ) -> list[State]:
        index, operands = states[0], states[1:]
        results = [
            self._body(body, operands, replace(at, path=(*at.path, i)).inside("cond"), found)
            for i, body in enumerate(eqn.params["branches"])
        ]
        chosen = carry_over(index.deps, {})
        return [
            State(join([chosen, *(s.deps for s in outs)])) for outs in zip(*results, strict=True)
        ]

    def _while(
        self, eqn: Equation, states: list[State], at: "_Where", found: Analysis
    ) -> list[State]:
        sizes = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        cond_consts, body_consts, carry = split_at(states, *sizes)
        inside = at.inside("while")
        while True:
            (predicate,) = self._body(
                eqn.params["cond_jaxpr"], [*cond_consts, *carry], inside.under("cond"), found
            )
            outs = self._body(
                eqn.params["body_jaxpr"], [*body_consts, *carry], inside.under("body"), found
            )
            stops = carry_over(predicate.deps, {})
            new = [State(join([a.deps, b.deps, stops])) for a, b in zip(carry, outs, strict=True)]
            if [s.deps for s in new] == [s.deps for s in carry]:
                return new
            carry = new

    def _scan(
        self, eqn: Equation, states: list[State], at: "_Where", found: Analysis
    ) -> list[State]:
        num_consts, num_carry = scan_arity(eqn)
        consts, carry, xs = split_at(states, num_consts, num_carry)
        step = Step(len(at.steps))
        later = ">" if eqn.params["reverse"] else "<"
        inside = replace(at.inside("scan"), steps=(*at.steps, eqn.params["length"]))
        xs = [State(relabel(s.deps, lambda a: step if a == 0 else a - 1), s.own) for s in xs]
        while True:
            outs = self._body(eqn.params["jaxpr"], [*consts, *carry, *xs], inside, found)
            new = [
                State(join([a.deps, age(b.deps, step, later)]))
                for a, b in zip(carry, outs[:num_carry], strict=True)
            ]
            if [s.deps for s in new] == [s.deps for s in carry]:
                break
            carry = new
        ys = [State(relabel(s.deps, lambda a: a + 1, {step: 0}), s.own) for s in outs[num_carry:]]
        return [State(forget(s.deps, step)) for s in carry] + ys


@dataclass(frozen=True)
class _Where:
    path: Path
    steps: tuple[int, ...]
    context: tuple[str, ...]

    def inside(self, kind: str) -> "_Where":
        return replace(self, context=(*self.context, kind))

    def under(self, name: str) -> "_Where":
        return replace(self, path=(*self.path, name))


STRUCTURAL = frozenset(
    "reshape squeeze broadcast_in_dim transpose convert_element_type copy mark expand_dims".split()
)


def _unstop_selected(
    eqn: Equation, states: list[State], makers: dict[Var, Equation], found: Analysis
) -> list[State]:
    """select_n(p, x, stop_gradient(x)), which a vmapped cond emits, detaches nothing."""
    if eqn.primitive.name != "select_n":
        return states

    def origin(atom: Any) -> Any:
        """The value that an atom is, but for its shape."""
        maker = None if isinstance(atom, Literal) else makers.get(atom)
        shaped = maker is not None and maker.primitive.name in STRUCTURAL
        return origin(maker.invars[0]) if shaped else atom  # type: ignore[union-attr]

    origins = list(map(origin, eqn.invars))
    for i, atom in enumerate(origins[1:], start=1):
        maker = None if isinstance(atom, Literal) else makers.get(atom)
        if maker is not None and maker.primitive.name == "stop_gradient":
            source = origin(maker.invars[0])
            twins = [j for j, other in enumerate(origins) if j and other is source]
            states = [states[twins[0]] if k == i and twins else s for k, s in enumerate(states)]
    return states


@functools.lru_cache(maxsize=4096)
def _shapes(structure: Any, avals: tuple[Any, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shapes: list[Any] = []

    def look(leaves: list[Any]) -> None:
        dist = structure.build(list(leaves))
        shapes.extend([dist.batch_shape, dist.event_shape])

    jax.eval_shape(look, list(avals))
    return shapes[0], shapes[1]


def leaf_maps(site: Site, avals: Sequence[Any]) -> list[AxisMap]:
    """How the axes of a site's leaves become lanes of its value."""
    native, apart = native_axes(site.structure, site.bare(avals))
    maps = []
    for i, axes in enumerate(native):
        lanes = site.leaf_lanes(i)
        own: AxisMap = {k: (lane, "=") for k, lane in enumerate(lanes)}
        for axis, j in axes.items():
            if apart[j]:
                own[len(lanes) + axis] = (len(site.lanes) + j, "=")
        maps.append(own)
    return maps


@functools.lru_cache(maxsize=4096)
def native_axes(
    structure: Any, avals: tuple[Any, ...]
) -> tuple[list[dict[int, int]], tuple[bool, ...]]:
    """How a distribution's own batch axes behave, read off the jaxpr of its log density.

    Returns, for each leaf, which of its axes is which batch axis, and for each batch axis
    whether the density keeps its entries apart: whether it is a lane.
    """
    batch, event = _shapes(structure, avals)
    if not batch:
        return [{} for _ in avals], ()

    def log_prob(value: Any, *leaves: Any) -> Any:
        return structure.build(list(leaves)).log_prob(value)

    value = jax.ShapeDtypeStruct((*batch, *event), value_aval(structure, avals).dtype)
    jaxpr, _ = trace(promoting(log_prob), value, *avals)
    inputs = [
        State({(i,): Dep(tuple((k, "=") for k in range(len(a.shape))))})
        for i, a in enumerate((value, *avals))
    ]
    dependence = Dependence(lambda info: False)
    (out,) = dependence.outputs(dependence.analyse(jaxpr, inputs))
    following = [
        {k: p[0] for k, p in enumerate(out.deps[i,].places) if p is not None and p[1] == "="}
        if (i,) in out.deps
        else {}
        for i in range(len(inputs))
    ]
    return following[1:], tuple(following[0].get(j) == j for j in range(len(batch)))
