"""Bounds of guides with choices of their own that the model does not have.

A guide q(z, u) with auxiliary choices u is a richer guide of z than either part, but its density
q(z) = int q(z, u) du is not known. These are `elbo` and `iwelbo` of its marginal, whose density is
estimated by importance sampling, with a reverse proposal r(u; z):

    Z = (1/n) sum_i q(z, u_i) / r(u_i; z),   u_1 from the guide's own run, the others from r.

As E[1/Z | z] = 1/q(z), E[log Z | z] >= log q(z), and subtracting it gives bounds still:

    hvi <= iwhvi(n) <= iwhvi(n + 1) <= elbo of q(z) <= log p(x),
    iwhvi(n) <= diwhvi(n, m) <= iwelbo(m) of q(z) <= log p(x).
"""

from typing import Any

from jaxtyping import Array, Float

from estimand.ppl.gen import GenerativeFunction
from estimand.ppl.importance import Importance
from estimand.ppl.marginal import Names
from estimand.ppl.objectives.bounds import elbo, iwelbo
from estimand.ppl.objectives.particles import LogDensity


def hvi(
    log_joint: LogDensity,
    guide: GenerativeFunction,
    *args: Any,
    keep: Names,
    reverse: GenerativeFunction | None = None,
) -> Float[Array, ""]:
    """Hierarchical variational inference, maximised: log p(z, x) + log r(u; z) - log q(z, u).

    (Ranganath et al. 2016, with r for their auxiliary model; Salimans et al. 2015.) The gap to
    the ELBO of q(z) is E KL(q(u | z) || r(u; z)), so parameters of r are trained by it too.

    Args:
        log_joint: as in `elbo`, of the choices that are kept.
        guide: the generative function q(z, u); `args` are its arguments.
        keep: the addresses of z.
        reverse: the generative function r(u; z) of a dict of z; None for the guide's own prior
            of u. Parameters of its own are closed over: `em.gen(partial(reverse, phi))`.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def guide(mean):
        ...     u = em.sample("u", dist.Normal(mean, 1.0))
        ...     em.sample("z", dist.Normal(u, 1.0))
        >>> @em.gen
        ... def reverse(z):
        ...     em.sample("u", dist.Normal(z["z"] / 2, 0.5**0.5))
        >>> log_joint = lambda z: dist.Normal(0.0, 2.0**0.5).log_prob(z["z"])
        >>> @em.expectation
        ... def bound(mean):
        ...     return em.hvi(log_joint, guide, mean, keep="z", reverse=reverse)
        >>> round(abs(float(bound.estimate(jax.random.key(0), 0.0))), 4)  # r and q are exact
        0.0
    """
    return iwhvi(log_joint, guide, *args, keep=keep, reverse=reverse, n=1)


def iwhvi(
    log_joint: LogDensity,
    guide: GenerativeFunction,
    *args: Any,
    keep: Names,
    reverse: GenerativeFunction | None = None,
    n: int,
) -> Float[Array, ""]:
    """Importance-weighted hierarchical variational inference, maximised: log p(z, x) - log Z.

    (Sobolev and Vetrov 2019.)

    Args:
        log_joint, guide, args, keep, reverse: as in `hvi`.
        n: the number of auxiliary draws; n - 1 of them are from r.
    """
    marginal = guide.marginal(keep=keep, via=Importance(reverse, n))
    return elbo(log_joint, lambda: marginal.simulate(*args))


def diwhvi(
    log_joint: LogDensity,
    guide: GenerativeFunction,
    *args: Any,
    keep: Names,
    reverse: GenerativeFunction | None = None,
    n: int,
    m: int,
) -> Float[Array, ""]:
    """Doubly importance-weighted hierarchical variational inference, maximised.

        log (1/m) sum_j p(z_j, x) / Z_j

    (Sobolev and Vetrov 2019.)

    Args:
        log_joint, guide, args, keep, reverse, n: as in `iwhvi`.
        m: the number of draws of z, each with n auxiliary ones.
    """
    marginal = guide.marginal(keep=keep, via=Importance(reverse, n))
    return iwelbo(log_joint, lambda: marginal.simulate(*args), m)
