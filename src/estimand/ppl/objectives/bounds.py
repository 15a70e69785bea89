"""Bounds of the log evidence log p(x), p(x) = int p(z, x) dz, from draws of a guide q.

All are means of powers of the importance weight, whose own mean is the evidence:

    w(z) = p(z, x) / q(z),   z ~ q,   E[w] = p(x)

With z_1, ..., z_n independent draws and w_i their weights, by Jensen's inequality

    elbo     E log w                            <= log p(x)
    iwelbo   E log (1/n) sum_i w_i              <= log p(x)
    renyi    E 1/(1-a) log (1/n) sum_i w_i^(1-a)   between, for 0 <= a <= 1
    chi      E w^k                              >= p(x)^k

The first inequality is an equality where q(z) is the posterior. The weights need q(z) > 0 wherever
p(z, x) > 0, for otherwise E[w] < p(x): then the lower bounds hold still, and `chi` does not.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from estimand.ppl.objectives.particles import (
    LogDensity,
    Propose,
    drawn,
    log_density,
    log_weights,
    real,
)
from estimand.transforms.weights import log_mean_exp


def elbo(log_joint: LogDensity, propose: Propose) -> Float[Array, ""]:
    """The evidence lower bound, maximised: log p(z, x) - log q(z) of one draw from q.

        E[elbo] = log p(x) - KL(q || p(. | x)) <= log p(x)

    (Jordan et al. 1999; Kingma and Welling 2014.)

    Args:
        log_joint: from choices to log p(z, x), for example
            `lambda z: model.log_density(em.merge(z, data))`.
        propose: a thunk that draws from the guide, `lambda: guide.simulate(phi)`.

    Returns:
        One term, for use in an `em.expectation`. It is unbiased for the bound.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def model():
        ...     z = em.sample("z", dist.Bernoulli(0.5))
        ...     em.sample("x", dist.Bernoulli(0.2 + 0.6 * z.astype(float)))
        >>> @em.gen
        ... def guide(p):
        ...     em.sample("z", dist.Bernoulli(p))
        >>> @em.expectation
        ... def objective(p):
        ...     log_joint = lambda z: model.log_density(em.merge(z, {"x": 1}))
        ...     return em.elbo(log_joint, lambda: guide.simulate(p))
        >>> value, grad = objective.value_and_grad(jax.random.key(0), 0.8)  # the posterior
        >>> round(float(value), 4), round(abs(float(grad)), 4)  # log 1/2
        (-0.6931, 0.0)
    """
    q = drawn(propose, "elbo")
    return log_density(log_joint, q.choices, "elbo") - q.log_density


def iwelbo(log_joint: LogDensity, propose: Propose, n: int) -> Float[Array, ""]:
    """The importance-weighted bound of n particles, maximised: log (1/n) sum_i w_i.

        E[elbo] = E[iwelbo(1)] <= E[iwelbo(n)] <= E[iwelbo(n + 1)] <= log p(x)

    (Burda et al. 2016.) The particles are one axis of a `vmap`, where they meet: discrete sites
    can have `em.Vimco()`.

    Args:
        log_joint, propose: as in `elbo`.
        n: the number of particles.

    Returns:
        One term, for use in an `em.expectation`. It is unbiased for the bound of n particles, and
        biased for log p(x) by the gap. -inf where no particle is possible.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def model():
        ...     em.sample("x", dist.Normal(em.sample("z", dist.Normal(0.0, 1.0)), 1.0))
        >>> @em.gen
        ... def guide(mean):
        ...     em.sample("z", dist.Normal(mean, 1.0))
        >>> def bound(n):
        ...     log_joint = lambda z: model.log_density(em.merge(z, {"x": 1.0}))
        ...     return em.expectation(
        ...         lambda mean: em.iwelbo(log_joint, lambda: guide.simulate(mean), n))
        >>> key, exact = jax.random.key(0), dist.Normal(0.0, 2.0**0.5).log_prob(1.0)
        >>> few, many = (bound(n).estimate(key, 0.0, num_samples=500) for n in (1, 100))
        >>> bool(few < many), bool(abs(many - exact) < 0.02)
        (True, True)
    """
    return log_mean_exp(log_weights(log_joint, propose, n, "iwelbo"))


def renyi(log_joint: LogDensity, propose: Propose, n: int, alpha: float) -> Float[Array, ""]:
    """The variational Renyi bound of n particles, maximised: a mean of powers of weights.

        L(a, n) = E 1/(1-a) log (1/n) sum_i w_i^(1-a),   at a = 1 the limit E log w

    (Li and Turner 2016.) L(0, n) is the importance-weighted bound, L(1, n) the ELBO.

    What it bounds: L(a, n) falls in a. So for a >= 0 it is a lower bound of log p(x) at every n,
    and for 0 <= a <= 1 between the ELBO and `iwelbo(n)`. The logarithm of a mean of n samples
    is biased for the Renyi bound itself, L(a) = log E[w^(1-a)] / (1-a): L(a, n) tends to it with
    n, from below if a < 1 and from above if a > 1. For a < 0, L(a) is an upper bound of
    log p(x), but L(a, n) lies between `iwelbo(n)` and L(a) and bounds nothing: `chi`
    is the upper bound that draws estimate without bias.

    Args:
        log_joint, propose: as in `elbo`.
        n: the number of particles.
        alpha: the order, a finite Python number.

    Returns:
        One term, for use in an `em.expectation`. It is unbiased for L(a, n); of a = 1, that is for
        the ELBO.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def model():
        ...     em.sample("x", dist.Normal(em.sample("z", dist.Normal(0.0, 1.0)), 1.0))
        >>> @em.gen
        ... def guide(mean):
        ...     em.sample("z", dist.Normal(mean, 1.0))
        >>> def bound(alpha):
        ...     log_joint = lambda z: model.log_density(em.merge(z, {"x": 1.0}))
        ...     return em.expectation(
        ...         lambda mean: em.renyi(log_joint, lambda: guide.simulate(mean), 9, alpha))
        >>> values = [bound(a).estimate(jax.random.key(0), 0.0) for a in (2.0, 1.0, 0.5, 0.0)]
        >>> values == sorted(values)
        True
    """
    alpha = real(
        alpha,
        "renyi",
        "its order decides the form of the bound, which is another one at 1",
        "alpha, a finite Python number",
        "pass alpha=0.5; float(alpha) of an array that is known",
        least=-jnp.inf,
    )
    log_w = log_weights(log_joint, propose, n, "renyi")
    if alpha == 1.0:
        return jnp.mean(log_w)
    return log_mean_exp((1.0 - alpha) * log_w) / (1.0 - alpha)


def chi(
    log_joint: LogDensity,
    propose: Propose,
    order: float = 2.0,
    log_scale: float | Float[Array, ""] = 0.0,
) -> Float[Array, ""]:
    """The exponential of the chi upper bound, minimised: w^k of one draw, in units of your own.

        E[chi] = E[w^k] / c^k = exp(k (CUBO_k - log c)),   CUBO_k = (1/k) log E[w^k] >= log p(x)

    (Dieng et al. 2017.) It is unbiased for the exponentiated bound, whose minimiser in the guide is
    that of the bound. For k = 2 and a normalised p, E[w^2] - 1 is the chi-square divergence. The
    logarithm of a mean of n such terms is biased downwards, and then no upper bound any more:
    that is k times `renyi(alpha=1 - k)`, which is less prone to overflow.

    Args:
        log_joint, propose: as in `elbo`.
        order: k, a Python number greater than 1.
        log_scale: log c, about log p(x), so that w / c is about 1 and does not overflow: a number,
            or a value that depends neither on the draws nor on what is optimised.

    Returns:
        One term, for use in an `em.expectation`; with V the mean of such terms, log c +
        log(V) / k is the bound. Its variance is finite where E[w^(2k)] is, so q should
        have the heavier tails.

    Example:
        >>> import estimand as em, jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> @em.gen
        ... def model():
        ...     em.sample("x", dist.Normal(em.sample("z", dist.Normal(0.0, 1.0)), 1.0))
        >>> @em.gen
        ... def guide(mean):
        ...     em.sample("z", dist.Normal(mean, 1.0))
        >>> log_joint = lambda z: model.log_density(em.merge(z, {"x": 1.0}))
        >>> @em.expectation
        ... def objective(mean):
        ...     return em.chi(log_joint, lambda: guide.simulate(mean), log_scale=-1.5)
        >>> value = objective.estimate(jax.random.key(0), 0.5, num_samples=1000)
        >>> bool(-1.5 + jnp.log(value) / 2 > dist.Normal(0.0, 2.0**0.5).log_prob(1.0))
        True
    """
    order = real(
        order,
        "chi",
        "E[w^k] bounds p(x)^k from above if k is greater than 1",
        "order, a finite Python number greater than 1",
        "pass order=2.0; for other powers there is em.renyi(alpha=1 - order)",
        least=1.0,
    )
    q = drawn(propose, "chi")
    log_w = log_density(log_joint, q.choices, "chi") - q.log_density
    return jnp.exp(order * (log_w - log_scale))
