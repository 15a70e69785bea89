"""How each site is estimated, and what that takes.

From the dependence of the terms follow, for each weighted site, the lanes that meet
somewhere (its `joint` lanes) and so its number of points. Multi-point sites that meet in
one value multiply; the product is held under a cap by giving defaulted sites `Score`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from estimand.errors import EstimandError, error
from estimand.transforms.dependence import Analysis, Dependence
from estimand.transforms.frontier import Frontier, frontier
from estimand.transforms.interpret import Path, has_sites
from estimand.transforms.jaxprs import Equation, Jaxpr, Literal, Var, close, subjaxprs
from estimand.transforms.places import NOTHING, Dep, SiteInfo, Step, carry_over, join
from estimand.transforms.primitives import sample_p
from estimand.transforms.sources import source_of
from estimand.transforms.strategy import Strategy


@dataclass(frozen=True)
class Chosen:
    """A site's strategy and the reason for it."""

    strategy: Strategy
    why: str
    default: bool = False


@dataclass(frozen=True)
class Term:
    """A value to be combined, with what reaches it; `steps` axes of scans come first."""

    var: Var
    path: Path  # of the body it is in; () at the top
    deps: dict[Path, Dep]
    source: Any  # the equation that made it, for messages


@dataclass
class Plan:
    jaxpr: Jaxpr
    sites: dict[Path, SiteInfo]
    chosen: dict[Path, Chosen]
    analysis: Analysis
    front: Frontier
    terms: list[Term]
    forward: frozenset[int]  # the equations at the top that terms and sites need
    joint: dict[Path, frozenset[int]] = field(default_factory=dict)
    points: dict[Path, int] = field(default_factory=dict)
    first_order_only: EstimandError | None = None  # what a second derivative raises
    moved: dict[Path, tuple[bool, ...]] = field(default_factory=dict)  # leaves, by arguments

    def weighted(self, path: Path) -> bool:
        return not self.chosen[path].strategy.pathwise

    def meeting(self, eqn: Equation, path: Path) -> list[int | None]:
        """Of each operand, the axis whose entries are brought together, if its strategy asks.

        They are the lanes of the first axis that is joint, at the first equation where what
        comes out does not keep them apart.
        """
        if not self.chosen[path].strategy.meets or not self.joint[path]:
            return []
        lane = min(self.joint[path])

        def apart(atom: Any) -> int | None:
            dep = None if isinstance(atom, Literal) else self.analysis.state(atom).deps.get(path)
            place = dep.places[lane] if dep is not None else None
            return place[0] if place is not None and place[1] == "=" else None

        reached = [v for v in eqn.outvars if path in self.analysis.state(v).deps]
        if all(apart(v) is not None for v in reached):
            return []
        return [apart(v) for v in eqn.invars]

    def parents(self, path: Path) -> dict[Path, Dep]:
        """The sites that reach a site's parameters, or whether it is reached, along its lanes."""
        analysis = _holder(self.analysis, path)
        eqn = close(analysis.jaxpr).jaxpr.eqns[path[-1]]
        depth = self.sites[path].steps
        deps = join([analysis.state(eqn.outvars[0]).deps, *_predicates(self.analysis, (), path)])
        return {p: stacked(d, depth) for p, d in deps.items() if p != path}


def _holder(analysis: Analysis, path: Path) -> Analysis:
    """The analysis of the body that the equation at `path` is in."""
    for where, body in analysis.bodies.items():
        if len(where) < len(path) and path[: len(where)] == where:
            return _holder(body, path)
    return analysis


def _predicates(analysis: Analysis, at: Path, path: Path) -> list[dict[Path, Dep]]:
    """What reaches the predicates of the branches that the equation at `path` is in."""
    for where, body in analysis.bodies.items():
        if len(where) < len(path) and path[: len(where)] == where:
            eqn = close(analysis.jaxpr).jaxpr.eqns[where[len(at)]]
            branch = eqn.primitive.name == "cond"
            chosen = [carry_over(analysis.state(eqn.invars[0]).deps, {})] if branch else []
            return chosen + _predicates(body, where, path)
    return []


Choose = Callable[[SiteInfo], Chosen]


def make_plan(jaxpr: Jaxpr, choose: Choose, fallback: Callable[[str], Chosen]) -> Plan:
    """Analyse a flat program and settle every site's strategy.

    `choose` gives a first choice per site, `fallback(why)` the strategy of a defaulted site
    whose points are too many.
    """
    demoted: dict[Path, str] = {}
    while True:
        plan = _analyse(jaxpr, choose, fallback, demoted)
        excess = _excess(plan)
        if not excess:
            return plan
        demoted.update(excess)


def _analyse(jaxpr: Jaxpr, choose: Choose, fallback: Any, demoted: dict[Path, str]) -> Plan:
    chosen: dict[Path, Chosen] = {}

    def weighted(info: SiteInfo) -> bool:
        if info.path not in chosen:
            first = choose(info)
            chosen[info.path] = fallback(demoted[info.path]) if info.path in demoted else first
        return not chosen[info.path].strategy.pathwise

    dependence = Dependence(weighted)
    inner = close(jaxpr).jaxpr
    analysis = dependence.analyse(jaxpr, [NOTHING] * len(inner.invars))
    front = frontier(analysis, inner.outvars)
    terms = list(_terms(analysis, front, (), 0))
    forward = _needed(jaxpr, front)
    plan = Plan(jaxpr, dependence.sites, chosen, analysis, front, terms, forward)
    for path, info in plan.sites.items():
        if plan.weighted(path):
            plan.joint[path] = _joint(info, chosen[path].strategy, terms)
            dist = static_distribution(info)
            lanes = 1
            for i in plan.joint[path]:
                lanes *= info.shape[i]
            plan.points[path] = chosen[path].strategy.count(dist, lanes)
            if chosen[path].strategy.meets and plan.joint[path]:
                plan.points[path] = 1 + info.shape[min(plan.joint[path])]
    return plan


def _needed(jaxpr: Jaxpr, front: Frontier) -> frozenset[int]:
    """The equations that terms, sites and the linear part's coefficients depend on.

    The linear part itself is evaluated on combined terms: on lifted ones it would bring all
    axes together.
    """
    inner = close(jaxpr).jaxpr
    outs = [v for v in inner.outvars if not isinstance(v, Literal) and v not in front.linear]
    wanted: set[Any] = {*front.terms, *outs}
    for i in front.equations:
        operands = [v for v in inner.eqns[i].invars if not isinstance(v, Literal)]
        wanted.update(v for v in operands if v not in front.linear)
    needed: set[int] = set()
    for i in reversed(range(len(inner.eqns))):
        eqn = inner.eqns[i]
        opened = i in front.bodies or any(has_sites(body) for body in subjaxprs(eqn))
        always = eqn.primitive is sample_p or opened or bool(eqn.effects)
        if always or any(v in wanted for v in eqn.outvars):
            needed.add(i)
            wanted.update(v for v in eqn.invars if not isinstance(v, Literal))
    return frozenset(needed)


def _terms(analysis: Analysis, front: Frontier, path: Path, depth: int) -> Any:
    """All terms, those of linear scans' bodies with their steps as leading axes."""
    inner = close(analysis.jaxpr).jaxpr
    makers = {v: eqn for eqn in inner.eqns for v in eqn.outvars}
    for var in front.terms:
        deps = {p: stacked(dep, depth) for p, dep in analysis.state(var).deps.items()}
        yield Term(var, path, deps, makers.get(var))
    for i, inside in front.bodies.items():
        here = (*path, i)
        yield from _terms(analysis.bodies[here], inside, here, depth + 1)


def stacked(dep: Dep, depth: int) -> Dep:
    """The dep of a body's value, once its `depth` enclosing steps are leading axes."""
    places = []
    for place in dep.places:
        if place is not None:
            axis, relation = place
            place = (axis.depth if isinstance(axis, Step) else axis + depth, relation)
        places.append(place)
    return dep._replace(places=tuple(places))


def _joint(info: SiteInfo, strategy: Strategy, terms: list[Term]) -> frozenset[int]:
    """The lanes that some term mixes, or follows only as a running sum."""
    joint = set(info.mixed)
    for term in terms:
        if info.path in term.deps:
            places = term.deps[info.path].places
            joint |= {i for i, p in enumerate(places) if p is None or p[1] != "="}
    return frozenset(joint)


def static_distribution(info: SiteInfo) -> Any:
    """A lane-free instance with placeholder parameters: for its class, shapes and support."""
    return info.site.structure.placeholder(info.site.bare(info.leaves))


def _excess(plan: Plan) -> dict[Path, str]:
    """Defaulted sites that must give way, because too many points meet in one value."""
    meetings = list(_meetings(plan))
    for paths, why in meetings:
        count = 1
        for path in paths:
            count *= plan.points[path]
        cap = min((plan.chosen[p].strategy.cap for p in paths), default=count)
        if count > cap:
            giving = {p for p in paths if plan.chosen[p].default}
            if not giving:
                raise _too_many(plan, paths, count, cap, why)
            return {p: f"{count} points would meet, over the cap of {cap}" for p in giving}
    return {}


def _meetings(plan: Plan) -> Any:
    """The sets of multi-point sites whose axes meet: in values, in weights, in combining."""
    axes: dict[Var, frozenset[Path]] = {}
    laws: dict[Path, frozenset[Path]] = {}
    for i, eqn in enumerate(close(plan.jaxpr).jaxpr.eqns):
        if i not in plan.forward:
            continue
        operands = [axes.get(v, frozenset()) for v in eqn.invars if not isinstance(v, Literal)]
        union = frozenset().union(*operands)
        if eqn.primitive is sample_p and plan.weighted((i,)):
            laws[i,] = union
            if plan.points[i,] > 1:
                fixed = plan.chosen[i,].strategy.fixed_points
                yield union | {(i,)}, eqn
                union = frozenset({(i,)}) if fixed else union | {(i,)}
        elif union:
            yield union, eqn
        axes.update((v, union) for v in eqn.outvars)
    for term in plan.terms:
        current = axes.get(term.var, frozenset())
        for path in sorted(term.deps, key=lambda p: plan.sites[p].order, reverse=True):
            current = (current | laws.get(path, frozenset())) - {path}
            yield current, term.source


def _too_many(plan: Plan, meeting: Any, count: int, cap: int, eqn: Any) -> EstimandError:
    paths = sorted(meeting, key=lambda p: plan.sites[p].order)
    where = plan.sites[paths[-1]].where
    names = ", ".join(f"{plan.sites[p].label!r} ({plan.points[p]})" for p in paths)
    line = f"{eqn.primitive.name} ({source_of(eqn)})" if eqn is not None else "one value"
    return error(
        where,
        f"too many points meet in {line}",
        expected=f"at most {cap} points over all multi-point sites that meet in one value",
        got=f"{count}: {names}",
        remedy="give one of these sites Score() or MeasureValued(), raise the cap with "
        "Enumerate(cap=...), or keep their lanes apart until the loss is summed",
    )
