"""The logarithm of a program's total weight, summed exactly over its finite sites.

The program's outputs are log weights, steps and lanes leading. It is evaluated once on lifted
values, each site at all of its points, lanes that all weights keep apart side by side; the weights
and the sites' probabilities are then factors, and the sites are summed out of them. A
`scan` is a chain (`chains.py`).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dists

from estimand.errors import EstimandError, error
from estimand.transforms.chains import BEFORE, Chain, Lost
from estimand.transforms.combine import Drawn, Lifted, lifted
from estimand.transforms.dependence import Analysis, Dependence
from estimand.transforms.factors import Eliminated, Factor, conditional, eliminate, gathered
from estimand.transforms.interpret import Path
from estimand.transforms.jaxprs import (
    Equation,
    Jaxpr,
    Literal,
    Var,
    bind_environment,
    close,
    evaluate,
    holds,
    subjaxprs,
)
from estimand.transforms.meeting import joint_lanes
from estimand.transforms.places import NOTHING, SiteInfo
from estimand.transforms.primitives import bind_site, mark_p, sample_p
from estimand.transforms.strategy import Law, Strategy
from estimand.transforms.weights import log_probability, or_equal


class Step(NamedTuple):
    """A body that was evaluated at all points: what comes out, and the weights."""

    outs: list[Any]
    factors: list[Factor]


class SumProduct:
    """`strategy` gives sites their points and probabilities, `refuses` says of which it cannot;
    `where` is for messages.
    """

    def __init__(
        self,
        jaxpr: Jaxpr,
        strategy: Strategy,
        refuses: Callable[[SiteInfo], str | None],
        where: str,
    ):
        self.jaxpr, self.strategy, self.where = jaxpr, strategy, where
        dependence = Dependence(lambda info: True)
        inner = close(jaxpr).jaxpr
        self.analysis = dependence.analyse(jaxpr, [NOTHING] * len(inner.invars))
        self.sites = {info.order: info for info in dependence.sites.values()}
        for info in self.sites.values():
            self._check(info, refuses(info))
        self.joint = joint_lanes(self.analysis, self.sites)
        self.chains: dict[Path, Chain] = {}  # as they were evaluated last
        self.grids = {s: self._grid(info) for s, info in self.sites.items()}

    def log_sum(self, inputs: Sequence[Any]) -> tuple[Any, list[Eliminated]]:
        """log of the sum of exp(all weights) over all points of all sites."""
        weights = dict.fromkeys(range(len(close(self.jaxpr).jaxpr.outvars)), 1)
        step = self.run(self.analysis, (), [Lifted(x, ()) for x in inputs], weights)
        factors, done = self.eliminate(step.factors, ())
        return sum((f.array for f in factors), start=jnp.zeros(())), done

    def sample(self, done: list[Eliminated]) -> dict[str, Any]:
        """Values of all sites by label, in proportion to the weight; after `log_sum`."""
        _, values = self.draw(done, {}, ())
        return {self.sites[s].label: value for s, value in values.items()}

    def draw(
        self, done: list[Eliminated], points: Mapping[int, Any], path: Path
    ) -> tuple[dict[int, Any], dict[int, Any]]:
        """The points and values of a body's sites, and the values of the loops in it.

        Last summed out, first drawn: what was summed before depends on it.
        """
        points, values = dict(points), {}
        for site, weight in reversed(done):
            logits = or_equal(conditional(weight, site, points))
            label = self.sites[site].label
            index = bind_site(dists.Categorical(logits=logits), name=None, via=None, label=label)
            points[site], values[site] = index, self._at(site, index)
        for inner, chain in list(self.chains.items()):
            if inner[:-1] == path:
                values.update(chain.sample(points))
        return {s: points[s] for s, _ in done}, values

    def forget(self, path: Path) -> None:
        """Of a loop's step, which has been traced: the loops in it."""
        for inner in [p for p in self.chains if len(p) > len(path) and p[: len(path)] == path]:
            del self.chains[inner]

    def _at(self, site: int, index: Any) -> Any:
        """The value [*lanes, *event] of a site at chosen points [*apart lanes]."""
        grid, lanes = self.grids[site], range(len(self._lanes(site)))
        along = jnp.expand_dims(index, [i for i in lanes if i in self.joint[site]])
        along = along.reshape(1, *along.shape, *(1 for _ in grid.shape[1 + len(lanes) :]))
        return jnp.take_along_axis(grid, along, axis=0)[0]

    def _grid(self, info: SiteInfo) -> Any:
        """All points of a site, [m, *lanes, *event]."""
        joint, lanes = self.joint[info.order], self._lanes(info.order)
        with jax.ensure_compile_time_eval():
            law = Law(info.site, list(info.leaves), lanes, joint)
            return np.asarray(self.strategy.points(jax.random.key(0), law))

    def _lanes(self, site: int) -> tuple[int, ...]:
        return self.sites[site].shape[self.sites[site].steps :]

    # the structure

    def _check(self, info: SiteInfo, reason: str | None) -> None:
        inside = [kind for kind in info.context if kind in ("cond", "while")]
        if inside:
            reason = f"it is inside a {inside[0]}"
        if reason:
            raise error(
                info.where,
                f"{self.where} cannot sum over it: {reason}",
                expected="latent choices with finite support, outside of branches",
                got=info.site.distribution,
                remedy="integrate by em.Importance(...) or em.SMC(...), or keep this choice",
            )

    def own(self, path: Path) -> list[int]:
        """The sites of one body."""
        return [s for s, info in self.sites.items() if info.path[:-1] == path]

    # evaluation

    def run(
        self, analysis: Analysis, path: Path, inputs: Sequence[Any], weights: Mapping[int, int]
    ) -> Step:
        """Evaluate a body; for k in `weights`, output k is a log weight, which counts so often."""
        inner = close(analysis.jaxpr).jaxpr
        env: dict[Var, Any] = bind_environment(analysis.jaxpr, inputs)
        env.update((v, Lifted(env[v], ())) for v in inner.constvars)
        factors: list[Factor] = []
        counts: Counter[Var] = Counter()
        for k, times in weights.items():
            if not isinstance(inner.outvars[k], Literal):
                counts[inner.outvars[k]] += times

        def read(atom: Any) -> Any:
            return Lifted(atom.val, ()) if isinstance(atom, Literal) else env[atom]

        needed = _needed(inner)
        for i, eqn in enumerate(inner.eqns):
            if i not in needed:
                continue
            here, operands = (*path, i), [read(v) for v in eqn.invars]
            name, bodies = eqn.primitive.name, subjaxprs(eqn)
            if eqn.primitive is sample_p:
                outs, found = self._site(analysis, eqn, here, operands)
            elif name == "scan" and any(holds(body, (sample_p,)) for body in bodies):
                inside = {j: counts[v] for j, v in enumerate(eqn.outvars) if v in counts}
                outs, found = self._scan(analysis, eqn, here, operands, inside)
            else:
                outs, found = self._equation(eqn, operands), []
            factors += found
            env.update(zip(eqn.outvars, outs, strict=True))
        for k, times in weights.items():
            weight = read(inner.outvars[k])
            if not isinstance(weight, Lost):
                weight = Lifted(times * jnp.asarray(weight.array), weight.axes)
                factors.append(self._factor(analysis, inner.outvars[k], weight))
            elif not weight.counted:
                raise self.used_after(weight)
        return Step([read(v) for v in inner.outvars], factors)

    def _equation(self, eqn: Equation, operands: list[Any]) -> list[Any]:
        lost = next((x for x in operands if isinstance(x, Lost)), None)
        if lost is not None:
            return [Lost(lost.source) for _ in eqn.outvars]
        if eqn.primitive is mark_p:
            return operands
        return lifted(lambda *xs: evaluate(eqn, *xs), operands)

    def _factor(self, analysis: Analysis, v: Any, value: Lifted) -> Factor:
        deps = analysis.state(v).deps
        places = {}
        for axis in reversed(value.axes):
            info = self.sites[axis % BEFORE]
            if info.path not in deps:  # then it is the same along the axis
                at = value.axes.index(axis)
                value = Lifted(jnp.take(value.array, 0, at), _without(value.axes, axis))
                continue
            row = deps[info.path].places[info.steps :]
            joint = self.joint[info.order]
            places[axis] = tuple(
                None if p is None or i in joint else p[0] for i, p in enumerate(row)
            )
        return Factor(value.array, value.axes, places)

    def _site(
        self, analysis: Analysis, eqn: Equation, path: Path, leaves: list[Any]
    ) -> tuple[list[Any], list[Factor]]:
        order = next(s for s, info in self.sites.items() if info.path == path)
        info = self.sites[order]
        lanes, joint = info.shape[info.steps :], self.joint[order]
        here = replace(info, shape=lanes, steps=0, mixed=frozenset())
        grid = self.grids[order]
        self._check_lost(leaves)
        drawn = Drawn(here, self.strategy, joint, Lifted(grid, (order,)), leaves)

        def log_probabilities(*leaves: Any) -> list[Any]:
            p = self.strategy.weights(drawn.law(leaves, grid, joint, {}), grid)
            return [log_probability(p)]

        (logs,) = lifted(log_probabilities, leaves)
        axes = (*logs.axes, order)
        apart = [i for i in range(len(lanes)) if i not in joint]
        deps = analysis.state(eqn.outvars[0]).deps
        places = {}
        for axis in axes:
            parent = self.sites[axis % BEFORE]
            row = deps[parent.path].places[parent.steps :]
            together = self.joint[parent.order]
            places[axis] = tuple(
                None if p is None or i in together else apart.index(p[0]) for i, p in enumerate(row)
            )
        return [drawn.alive(())], [Factor(logs.array, axes, places)]

    def _check_lost(self, operands: Sequence[Any]) -> None:
        for x in operands:
            if isinstance(x, Lost):
                raise self.used_after(x)

    def _scan(
        self,
        analysis: Analysis,
        eqn: Equation,
        path: Path,
        operands: list[Any],
        weights: Mapping[int, int],
    ) -> tuple[list[Any], list[Factor]]:
        self._check_lost(operands)
        return Chain(self, analysis.bodies[path], eqn, path, weights).run(operands)

    def eliminate(
        self, factors: Sequence[Factor], path: Path
    ) -> tuple[list[Factor], list[Eliminated]]:
        """The factors with the sites of the body at `path` summed out."""
        cap = self.strategy.cap
        return eliminate(gathered(factors), self.own(path), cap, self._too_many)

    def _too_many(self, sites: Sequence[int], points: int) -> EstimandError:
        names = ", ".join(repr(self.sites[s % BEFORE].label) for s in sites)
        if points:
            got = f"{points} points of {names}"
        else:
            got = f"{names}, each of which keeps lanes apart that another brings together"
        return error(
            self.sites[sites[-1] % BEFORE].where,
            f"{self.where} cannot sum its choices out one by one",
            expected=f"at most {self.strategy.cap} points over all choices that meet in one weight",
            got=got,
            remedy="raise the cap with em.Enumerate(cap=...), or integrate by em.Importance(...)",
        )

    def used_after(self, lost: Lost) -> EstimandError:
        return error(
            f"scan ({lost.source})",
            "choices of its steps are used after it, where they are summed out",
            expected=f"in {self.where}, the weights of a loop's choices inside of the loop",
            got="a value that depends on them, in a weight or another choice after the loop",
            remedy="observe inside the scan, use jax.vmap where steps are independent, or "
            "integrate by em.Importance(...) or em.SMC(...)",
        )


def _needed(inner: Any) -> set[int]:
    """The equations that the outputs and the sites depend on."""
    wanted = {v for v in inner.outvars if not isinstance(v, Literal)}
    needed: set[int] = set()
    for i in reversed(range(len(inner.eqns))):
        eqn = inner.eqns[i]
        if eqn.primitive is sample_p or any(v in wanted for v in eqn.outvars):
            needed.add(i)
            wanted.update(v for v in eqn.invars if not isinstance(v, Literal))
    return needed


def _without(axes: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return tuple(a for a in axes if a != axis)
