"""`simulate` and `assess`: the two readings of a generative function that have a density.

With sites i, parents' values in their parameters and log weights w_j of factors,

    log_density = sum_i log d_i(x_i) + sum_j w_j,

kept per address so that local terms can be scaled, weighted and searched for a NaN.
`simulate` leaves each site in the surrounding program as an anonymous one that remembers
its label; whoever runs that program decides how it is drawn and differentiated.
"""

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from estimand.errors import EstimandError, error
from estimand.transforms.continuous import DENSITY
from estimand.transforms.distributions import over_lanes
from estimand.transforms.interpret import Handler, Path, address, has_sites
from estimand.transforms.jaxprs import Equation, close, scopes, subjaxprs
from estimand.transforms.primitives import Estimated, Site, estimated_p, mark, mark_p, sample_p
from estimand.transforms.supports import can_be_left, snapped


def draw(site: Site, key: Any, leaves: list[Any]) -> Any:
    """One draw, every lane with its own key."""
    keys = jax.random.split(key, site.lanes) if site.lanes else key

    def one(key: Any, *leaves: Any) -> Any:
        try:
            return site.structure.build(list(leaves)).sample(key)
        except (NotImplementedError, ImportError) as problem:
            raise _cannot_draw(site, problem) from None

    in_axes: Any = [[0, *axes] for axes in site.in_axes()]
    return over_lanes(one, site.lanes, in_axes)(keys, *leaves)


def _cannot_draw(site: Site, problem: Exception) -> EstimandError:
    missing = f", for which NumPyro says: {problem}" if isinstance(problem, ImportError) else ""
    return error(
        site.where,
        f"{site.distribution} has no sampler",
        expected="a distribution that can be drawn from, or a value for it",
        got=f"a draw of {site.distribution}{missing}",
        remedy="give its value to assess or log_density; a guide needs a proper distribution",
    )


def log_density(site: Site, value: Any, leaves: list[Any], given: bool = False) -> Any:
    """log d(value), of shape lanes + batch; one call in the jaxpr, so that passes know it.

    A value that is `given`, and not the site's own draw, may lie outside of the support,
    where this is -inf.
    """
    return _log_density(site, value, leaves, given)


def _named(name: str) -> Any:
    def rename(fun: Any) -> Any:
        fun.__name__ = fun.__qualname__ = name
        return fun

    return rename


@partial(jax.jit, static_argnames=("site", "given"))
@_named(DENSITY)
def _log_density(site: Site, value: Any, leaves: list[Any], given: bool) -> Any:

    def one(value: Any, *leaves: Any) -> Any:
        dist = site.structure.build(list(leaves))
        if given and can_be_left(dist):
            value = snapped(dist, value)
            dist = site.structure.build(list(leaves), validated=True)
        density = dist.log_prob(value)
        if jnp.shape(density) != dist.batch_shape:
            raise _broadcast(site, jnp.shape(density), dist.batch_shape)
        return density

    in_axes: Any = [[0, *axes] for axes in site.in_axes()]
    return over_lanes(one, site.lanes, in_axes)(value, *leaves)


def _broadcast(site: Site, got: tuple[int, ...], expected: tuple[int, ...]) -> EstimandError:
    return error(
        site.where,
        f"the log density of {site.distribution} has another shape than its batch",
        expected=f"one number for each draw: shape {list(expected)}",
        got=f"shape {list(got)}, which would be broadcast",
        remedy="expand the distribution to the shape of its parameters before it is sampled from",
    )


class Recorder(Handler):
    """Reads a program's density: what is given is scored where it is, the rest is drawn.

    With everything given it is `assess`, with nothing `simulate`. The records are, by address,
    values, log densities and whether the branch was taken; `owner` names the program in labels.
    The log densities of what is in `weighted`, and factors, are also recorded as log weights.
    """

    def __init__(self, owner: str, given: dict[str, Any], weighted: Collection[str] = frozenset()):
        self.owner, self.given, self.weighted = owner, given, weighted
        self.records: dict[str, dict[str, Any]] = {}

    def record(self, address: str, weighted: bool = False, **found: Any) -> None:
        record = {**found, "taken": jnp.ones((), bool)}
        if weighted:
            record["log_weight"] = record["log_density"]
        self.records[address] = record

    def site(self, eqn: Equation, path: Path, address: str, leaves: list[Any]) -> Any:
        site = replace(eqn.params["site"], name=None, label=f"{self.owner}/{address}")
        given = address in self.given
        if given:
            value = scored = mark(self.given[address], "observed", name=site.label, info=site)
        else:
            value = sample_p.bind(*leaves, site=site)
            scored = mark(value, "scored", name=site.label)
        density = log_density(site, scored, leaves, given=given)
        self.record(address, address in self.weighted, value=value, log_density=density)
        return value

    def estimated(
        self, eqn: Equation, path: Path, scope: tuple[str, ...], operands: list[Any]
    ) -> list[Any]:
        law: Estimated = eqn.params["law"]
        addresses = ["/".join((*scope, found.address)) for found in law.sites]
        given, weighted = (_all_or_none(law, addresses, x) for x in (self.given, self.weighted))
        if given:
            values = [self.given[name] for name in addresses]
            weight = law.over_lanes(
                lambda *xs: law.assess(list(xs[: len(operands)]), list(xs[len(operands) :])),
                *values,
            )(*operands, *values)
        else:
            values, weight = law.over_lanes(law.simulate)(*operands)
        if law.estimator:
            kind = "assessed" if given else "simulated"
            weight = mark(weight, "estimate", name=law.name, info=(kind, law.estimator))
        for name, value in zip(addresses, values, strict=True):
            self.record(name, value=value)
        self.record("/".join((*scope, law.name)), weighted, log_density=weight)
        return values

    def mark(self, eqn: Equation, path: Path, address: str, x: Any) -> Any:
        if eqn.params["mark"].kind == "factor":
            self.record(address, True, log_density=x)
            return x
        return mark_p.bind(x, **eqn.params)

    def fork(self, eqn: Equation, path: Path, scope: Any, n: int | None) -> Any:
        wanted = set().union(*(addresses_in(body, scope) for body in subjaxprs(eqn)))
        return {name: self.given[name] for name in sorted(wanted) if name in self.given}

    def child(self, incoming: Any) -> "Recorder":
        return Recorder(self.owner, incoming, self.weighted)

    def outgoing(self) -> dict[Any, Any]:
        return self.records

    def absorb(self, outgoing: dict[Any, Any]) -> None:
        self.records.update(outgoing)


def _all_or_none(law: Estimated, addresses: list[str], names: Collection[str]) -> bool:
    """Whether all choices of a law are among the names; if some are and some are not, it raises."""
    among = [name for name in addresses if name in names]
    if among and len(among) < len(addresses):
        raise error(
            law.where,
            "its density is known of all of its choices together, and not of some given others",
            expected=f"all of {', '.join(addresses)}, or none of them",
            got=", ".join(among),
            remedy="keep or observe all of its choices or none, or give the marginal a proposal "
            "of the others: em.Importance(proposal)",
        )
    return bool(among)


def addresses_in(jaxpr: Any, scope: tuple[str, ...]) -> set[str]:
    """The addresses of the sites in a body."""
    found: set[str] = set()
    for eqn in close(jaxpr).jaxpr.eqns:
        around = (*scope, *scopes(eqn))
        if eqn.primitive is sample_p:
            found.add(address(around, eqn.params["site"].name))
        elif eqn.primitive is estimated_p:
            found |= {address(around, item.address) for item in eqn.params["law"].sites}
        for sub in subjaxprs(eqn):
            if has_sites(sub):
                found |= addresses_in(sub, around)
    return found
