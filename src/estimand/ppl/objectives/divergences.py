"""Divergences between two distributions p and q that can be scored, from draws of one of them.

A distribution is given by what the mathematics needs of it: a log density, from choices to a
scalar, where the other one is drawn from, and a thunk that returns a trace where it is
drawn itself; a trace brings the log density of its own choices. In every signature p comes first.
Both densities have one set of addresses. Nothing is detached: the derivatives are those of
the divergence, in the parameters of p and of q.

Each is zero where p = q, and positive otherwise, provided that both densities are normalised. If a
density is known up to a constant c, the KL divergences are off by log c or its negative, and keep
their gradients; `f_divergence` becomes another objective. Draws say nothing of where they never go:
a density is needed that is positive wherever the drawn one is, and for `f_divergence` the converse.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from estimand.errors import EstimandError, error, source_line
from estimand.ppl.language import assume_continuous
from estimand.ppl.objectives.particles import LogDensity, Propose, drawn, log_density
from estimand.transforms.jaxprs import is_concrete

ROUNDING = 1e-5


def reverse_kl(log_p: LogDensity, propose_q: Propose) -> Float[Array, ""]:
    """KL(q || p), minimised in q: log q(z) - log p(z) of one draw from q.

    For p(z, x) in the place of p it is the negative ELBO: KL(q || p(. | x)) - log p(x).

    (Kullback and Leibler 1951.)

    Args:
        log_p: from choices to log p(z).
        propose_q: a thunk that draws from q, `lambda: guide.simulate(phi)`.

    Returns:
        One term, for use in an `em.expectation`. It is unbiased for the divergence.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def normal(mean):
        ...     em.sample("z", dist.Normal(mean, 1.0))
        >>> @em.expectation
        ... def objective(mean):
        ...     return em.reverse_kl(
        ...         lambda z: normal.log_density(z, 0.0), lambda: normal.simulate(mean))
        >>> value, grad = objective.value_and_grad(jax.random.key(0), 2.0, num_samples=1000)
        >>> bool(abs(value - 2.0) < 0.2), bool(abs(grad - 2.0) < 0.2)  # mean^2 / 2
        (True, True)
    """
    q = drawn(propose_q, "reverse_kl")
    return q.log_density - log_density(log_p, q.choices, "reverse_kl")


def forward_kl(propose_p: Propose, log_q: LogDensity) -> Float[Array, ""]:
    """KL(p || q), minimised in q: log p(z) - log q(z) of one draw from p.

    For p that can be drawn from. Where it is a posterior, which cannot, there is `wake_phi`, of
    weighted draws from a guide, and `sleep`, of draws from the joint density.

    (Kullback and Leibler 1951.)

    Args:
        propose_p: a thunk that draws from p.
        log_q: from choices to log q(z).

    Returns:
        One term, for use in an `em.expectation`. It is unbiased for the divergence; +inf where q
        gives no probability to a draw from p.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def coin(p):
        ...     em.sample("z", dist.Bernoulli(p))
        >>> @em.expectation
        ... def objective(p):
        ...     return em.forward_kl(lambda: coin.simulate(0.5), lambda z: coin.log_density(z, p))
        >>> value, grad = objective.value_and_grad(jax.random.key(0), 0.25)
        >>> round(float(value), 4), round(float(grad), 4)  # enumerated: log(4/3) / 2, -4/3
        (0.1438, -1.3333)
    """
    p = drawn(propose_p, "forward_kl")
    return p.log_density - log_density(log_q, p.choices, "forward_kl")


def symmetric_kl(
    log_p: LogDensity, propose_p: Propose, log_q: LogDensity, propose_q: Propose
) -> Float[Array, ""]:
    """KL(p || q) + KL(q || p), minimised: the forward and the reverse divergence, each drawn.

    (Jeffreys 1946, without a factor of one half.)

    Args:
        log_p, propose_p: p, as from choices to log p(z), and as a thunk that draws from it.
        log_q, propose_q: the same of q.

    Returns:
        One term, for use in an `em.expectation`. It is unbiased for the divergence. Constants of
        p and of q that are not known cancel.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def coin(p):
        ...     em.sample("z", dist.Bernoulli(p))
        >>> @em.expectation
        ... def objective(p):
        ...     return em.symmetric_kl(
        ...         lambda z: coin.log_density(z, 0.5), lambda: coin.simulate(0.5),
        ...         lambda z: coin.log_density(z, p), lambda: coin.simulate(p))
        >>> value, grad = objective.value_and_grad(jax.random.key(0), 0.25)
        >>> round(float(value), 4)  # (p - 1/2) log(p / (1 - p))
        0.2747
    """
    p, q = drawn(propose_p, "symmetric_kl"), drawn(propose_q, "symmetric_kl")
    forward = p.log_density - log_density(log_q, p.choices, "symmetric_kl")
    return forward + q.log_density - log_density(log_p, q.choices, "symmetric_kl")


def f_divergence(
    f: Callable[[Float[Array, ""]], Float[Array, ""]], log_p: LogDensity, propose_q: Propose
) -> Float[Array, ""]:
    """D_f(p || q) = E_q[f(p / q)], minimised: f of one ratio, f convex and f(1) = 0.

        f(t) = t log t   KL(p || q)         f(t) = (sqrt t - 1)^2   squared Hellinger
        f(t) = -log t    KL(q || p)         f(t) = abs(t - 1) / 2   total variation
        f(t) = t^2 - 1   chi-square         any other: yours

    (Csiszar 1967; Ali and Silvey 1966.)

    Args:
        f: from the ratio p(z) / q(z), a positive scalar or zero, to a scalar. Written for
            scalars, so that it need not be vectorised; finite at 0 where p may be zero:
            `jax.scipy.special.xlogy(t, t)` and not `t * jnp.log(t)`.
        log_p: from choices to log p(z), normalised.
        propose_q: a thunk that draws from q, whose trace has a normalised log density.

    Returns:
        One term, for use in an `em.expectation`. It is unbiased for the divergence, if q(z) > 0
        wherever p(z) > 0: draws from q leave out the rest.

    Raises:
        EstimandError: f that is no function, that returns no scalar, or for which f(1) is not 0.
            That it is convex is not checked.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def coin(p):
        ...     em.sample("z", dist.Bernoulli(p))
        >>> @em.expectation
        ... def objective(p):  # sum_z (p - q)^2 / (p + q)
        ...     return em.f_divergence(
        ...         lambda t: (t - 1) ** 2 / (t + 1),
        ...         lambda z: coin.log_density(z, 0.5), lambda: coin.simulate(p))
        >>> value, grad = objective.value_and_grad(jax.random.key(0), 0.25)
        >>> round(float(value), 4)  # 1/12 + 1/20
        0.1333
    """
    _check_generator(f)
    q = drawn(propose_q, "f_divergence")
    ratio = jnp.exp(log_density(log_p, q.choices, "f_divergence") - q.log_density)
    zero = assume_continuous(ratio) == 0.0  # then t f'(t) -> 0, for convex f finite at zero
    return jnp.where(zero, f(jnp.zeros_like(ratio)), f(jnp.where(zero, 1.0, ratio)))


def _check_generator(f: Callable) -> None:
    if not callable(f):
        raise _no_generator("a divergence is given by its function", repr(f))
    with jax.ensure_compile_time_eval():
        one = f(jnp.ones(()))
    if jnp.shape(one) != ():
        raise _no_generator("its value at a ratio is one number", f"f(1) = {one}")
    if is_concrete(one) and not abs(float(one)) < ROUNDING:
        raise _no_generator("it is zero where the densities agree", f"f(1) = {float(one):g}")


def _no_generator(problem: str, got: str) -> EstimandError:
    return error(
        f"em.f_divergence ({source_line()})",
        problem,
        expected="f, a convex function of the ratio p / q with f(1) = 0, from scalar to scalar",
        got=got,
        remedy="lambda t: (jnp.sqrt(t) - 1) ** 2; subtract f(1) from a function that has another",
    )
