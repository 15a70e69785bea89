r"""Importance sampling of a program's latent choices u, of which x are given.

With u_i from a proposal r(u; x) and weights w_i = p(x, u_i) / r(u_i; x),

    Z = (1/n) sum_i w_i,   E[Z] = p(x),

as long as r > 0 wherever p(x, u) > 0. Where no proposal is given it is the program's own prior,
and w_i the density of x given u_i.

Where x and u_0 are from a run of the program, u_0 is one of the particles and the others are
proposed (conditional importance sampling). Put at a slot j that is chosen uniformly, their law is

    (1/n) p(u_j | x) prod_{i != j} r(u_i; x)  =  Z / p(x) * [prod_i r(u_i; x)] w_j / (n Z),

and what follows Z / p(x) is a law too: of n proposals, and one of them chosen in proportion to its
weight. So E[1/Z | x] = 1/p(x), where in addition p(x, u) > 0 wherever r > 0. That other law is
how a posterior is sampled, and p(x, u_j) / Z its density (Andrieu, Doucet and Holenstein 2010).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from estimand.errors import EstimandError, error, is_count, source_line
from estimand.ppl.choices import kind
from estimand.ppl.target import Program, Reading, Target
from estimand.transforms.jaxprs import Literal
from estimand.transforms.supports import constant_range, lies_inside, range_of, supports_of
from estimand.transforms.survey import Found
from estimand.transforms.weights import log_mean_exp


@dataclass(frozen=True)
class Importance:
    """Integrate a program's latent choices out by importance sampling.

    Args:
        proposal: a generative function of the given choices (a dict), which draws all others;
            None for the program's own prior. Parameters of its own are closed over.
        n: the number of particles, one vectorised axis.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def model():
        ...     u = em.sample("u", dist.Normal(0.0, 1.0))
        ...     em.sample("x", dist.Normal(u, 1.0))
        >>> @em.gen
        ... def posterior(given):
        ...     em.sample("u", dist.Normal(given["x"] / 2, 0.5**0.5))
        >>> exact = model.marginal(keep="x", via=em.Importance(posterior))
        >>> float(em.seed(exact.log_density)(jax.random.key(0), {"x": 1.0}))  # log N(1; 0, 2)
        -1.5155...
    """

    proposal: Any = None
    n: int = 1

    def __post_init__(self) -> None:
        if not is_count(self.n) or self.n < 1:
            raise error(
                f"em.Importance ({source_line()})",
                "n is a number of particles",
                expected="a positive integer",
                got=repr(self.n),
                remedy="leave it out for one particle, or write Importance(n=10)",
            )

    @property
    def estimator(self) -> str:
        proposal = "the prior" if self.proposal is None else self.proposal.name
        return f"importance sampling, n={self.n}, from {proposal}"

    def log_evidence(self, target: Target, retained: Reading | None = None) -> Any:
        """log Z; a run of the program, if there is one, is one of the particles."""
        fresh = self.n if retained is None else self.n - 1
        weights = [_particles(target, fresh)[1]] if fresh else []
        if retained is not None:
            weights.append(self._weight(target, retained)[None])
        return log_mean_exp(jnp.concatenate(weights))

    def choose(self, target: Target) -> tuple[dict[str, Any], Any]:
        """Latent choices in proportion to their weights, and log p(x, u) - log Z of them."""
        latent, weights, joint = _particles(target, self.n)
        index = target.pick(weights)
        latent, joint = jax.tree.map(lambda x: x[index], (latent, joint))
        return latent, joint - log_mean_exp(weights)

    def _weight(self, target: Target, run: Reading) -> Any:
        if target.proposal is None:
            return run.log_weight
        return run.log_density - target.propose(target.latent_of(run.choices)).log_density


def _particles(target: Target, n: int) -> tuple[dict[str, Any], Any, Any]:
    """Latent choices, log weights and log joint densities of n proposals."""

    def particle(_: Any) -> tuple[dict[str, Any], Any, Any]:
        if target.proposal is None:
            run = target.prior()
            return target.latent_of(run.choices), run.log_weight, run.log_density
        proposed = target.propose({})
        joint = target.joint(proposed.choices)
        return proposed.choices, joint - proposed.log_density, joint

    return jax.vmap(particle)(jnp.arange(n))


def check_proposal(proposal: Program, program: Program, given: Collection[str], where: str) -> None:
    """Raise for all that makes a proposal no proposal of a program's latent choices."""
    latent = {name: site for name, site in program.sites.items() if name not in given}
    misfits = []
    for name in sorted({*latent, *proposal.sites}):
        ours, theirs = latent.get(name), proposal.sites.get(name)
        expected = kind(ours) if ours else "nothing, it is given" if name in given else "nothing"
        got = kind(theirs) if theirs else "nothing"
        if ours and theirs and not misfit(ours, theirs):
            continue
        if ours and theirs:
            got = f"{got}: {misfit(ours, theirs)}"
        misfits.append(f"{name!r}\n      expected: {expected}\n      got:      {got}")
    if misfits:
        listed = "\n  - ".join(misfits)
        raise EstimandError(
            f"{where}: the proposal {proposal.name} does not fit what {program.name} leaves open:"
            f"\n  - {listed}\n  remedy:   propose each choice that is not given once, in the shape "
            "and dtype of its site, from a distribution that covers its support"
        )


def misfit(ours: Found, theirs: Found) -> str | None:
    """Why one site cannot propose for another."""
    if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
        return "another shape or dtype"
    if ours.branches or theirs.branches:
        return "a choice in a branch of a cond can be proposed by the program itself only"
    supports = [_support(site) for site in (ours, theirs)]
    if None not in supports and not lies_inside(*supports):
        return "a smaller support"
    return None


def _support(found: Found) -> Any:
    """The support of a site, as far as it is known before the program runs."""
    assert found.site is not None
    known = {}
    for i, x in enumerate(found.leaves):
        interval = constant_range(x.val) if isinstance(x, Literal) else None
        if interval is not None and (values := range_of(interval)) is not None:
            known[i] = values
    bare = found.site.bare([x.aval for x in found.leaves])
    every_and_some = supports_of(found.site.structure, bare, known)
    return every_and_some and every_and_some[0]
