"""Wake-sleep: an objective for the parameters of the model, theta, and others for the guide's, phi.

    wake_theta   maximised in theta: the importance-weighted bound, as if the guide were data
    wake_phi     minimised in phi: KL(p(. | x) || q), at the data, by self-normalised weights
    sleep        minimised in phi: the same divergence, at data that the model dreams

What is drawn is detached: draws are data for the one that learns, with neither score nor
pathwise derivative. So the three can be added up in one objective, each with its own sign:
`em.wake_theta(...) - em.wake_phi(...)` is maximised, and no part has a derivative in the other's
parameters. There is in general no one function of theta and phi that all of them descend.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from estimand.ppl.language import detach
from estimand.ppl.objectives.particles import (
    LogDensity,
    Propose,
    drawn,
    log_density,
    particles,
)
from estimand.transforms.weights import log_mean_exp


def wake_theta(log_joint: LogDensity, propose: Propose, n: int) -> Float[Array, ""]:
    """The wake phase of the model, maximised in theta: log (1/n) sum_i w_i of detached draws.

        d wake_theta = sum_i v_i d log p(z_i, x),   v_i = w_i / sum_j w_j,   z_i ~ q detached

    Its value is that of `iwelbo`, and its gradient in theta is unbiased for the gradient of that
    bound. As an estimate of the gradient of log p(x) it is biased by O(1/n), since the weights are
    normalised by their own sum. In what the guide depends on it has no derivative.

    (Bornschein and Bengio 2015, the wake update of p; for n = 1 Hinton et al. 1995.)

    Args:
        log_joint: from choices to log p(z, x) under theta.
        propose: a thunk that draws from the guide.
        n: the number of particles.

    Returns:
        One term, for use in an `em.expectation`. -inf where no particle is possible.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def model(theta):
        ...     em.sample("x", dist.Normal(em.sample("z", dist.Normal(theta, 1.0)), 1.0))
        >>> @em.gen
        ... def guide(phi):
        ...     em.sample("z", dist.Normal(phi, 1.0))
        >>> @em.expectation
        ... def objective(theta, phi):
        ...     log_joint = lambda z: model.log_density(em.merge(z, {"x": 2.0}), theta)
        ...     return em.wake_theta(log_joint, lambda: guide.simulate(phi), 50)
        >>> grads = objective.grad(
        ...     jax.random.key(0), 0.0, 1.0, argnums=(0, 1), num_samples=500)
        >>> bool(abs(grads[0] - 1.0) < 0.05), float(grads[1])  # of log p(x): x / 2
        (True, 0.0)
    """

    def log_weight() -> Float[Array, ""]:
        q = drawn(propose, "wake_theta", detached=True)
        return log_density(log_joint, q.choices, "wake_theta") - q.log_density

    return log_mean_exp(particles(log_weight, n, "wake_theta"))


def wake_phi(
    log_joint: LogDensity, propose: Propose, log_q: LogDensity, n: int
) -> Float[Array, ""]:
    """Forward KL to the posterior, minimised in phi; self-normalised, and so biased by O(1/n).

        wake_phi = -sum_i v_i log q(z_i),   v_i = w_i / sum_j w_j,   z_i detached draws

        E[wake_phi] = KL(p(. | x) || q) + H(p(. | x)) + O(1/n)

    with H the entropy, in which phi has no part. Value and gradient are biased for those of the
    divergence, and consistent: the estimate averages over draws of n particles, and many such
    averages (`num_samples`) do not lessen the bias, but a larger n does. At n = 1 the only weight
    is one: if the proposal is the guide itself, the gradient then has mean zero and trains nothing.

    (Bornschein and Bengio 2015, the wake update of q.)

    Args:
        log_joint: from choices to log p(z, x), detached here.
        propose: a thunk that draws the particles: from the guide, or from any other proposal that
            reaches all of the posterior. Detached here.
        log_q: from choices to log q(z), which is differentiated:
            `lambda z: guide.log_density(z, phi)`.
        n: the number of particles.

    Returns:
        One term, for use in an `em.expectation`. +inf, with derivative zero, where no particle is
        possible, since then nothing is known of the posterior.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def model():
        ...     em.sample("x", dist.Normal(em.sample("z", dist.Normal(0.0, 1.0)), 1.0))
        >>> @em.gen
        ... def guide(phi):
        ...     em.sample("z", dist.Normal(phi, 1.0))
        >>> def objective(n):
        ...     return em.expectation(lambda phi: em.wake_phi(
        ...         lambda z: model.log_density(em.merge(z, {"x": 2.0})),
        ...         lambda: guide.simulate(phi), lambda z: guide.log_density(z, phi), n))
        >>> key = jax.random.key(0)  # the exact gradient is phi - E[z | x], here -1
        >>> few, many = (objective(n).grad(key, 0.0, num_samples=500) for n in (2, 100))
        >>> bool(few > -0.9), bool(abs(many + 1.0) < 0.05)
        (True, True)
    """

    def particle() -> tuple[Float[Array, ""], Float[Array, ""]]:
        z = drawn(propose, "wake_phi", detached=True)
        log_p = detach(log_density(log_joint, z.choices, "wake_phi"))
        return log_p - z.log_density, log_density(log_q, z.choices, "wake_phi")

    log_w, log_q_z = particles(particle, n, "wake_phi")
    total = log_mean_exp(log_w)
    impossible = total == -jnp.inf
    weight = jnp.exp(log_w - jnp.where(impossible, 0.0, total)) / n
    terms = jnp.where(weight == 0.0, 0.0, weight * log_q_z)  # 0 log 0 of an impossible particle
    return jnp.where(impossible, jnp.inf, -jnp.sum(terms))


def sleep(dream: Propose, log_q: LogDensity) -> Float[Array, ""]:
    """The sleep phase of the guide, minimised in phi: -log q(z | x) of a draw (z, x) of the model.

        E[sleep] = E_{x ~ p}[KL(p(. | x) || q(. | x))] + E_{x ~ p}[H(p(. | x))]

    with H the entropy, in which phi has no part: so it is an amortised forward KL, averaged over
    the model's own data and not over yours. The draw is detached, so that theta has no
    derivative; it is unbiased, and needs no density of the model.

    (Hinton et al. 1995.)

    Args:
        dream: a thunk that draws latents and data from the model, `lambda: model.simulate(theta)`.
        log_q: from all of these choices to log q(z | x), which takes the data out of them:
            `lambda c: guide.log_density({"z": c["z"]}, phi, c["x"])`.

    Returns:
        One term, for use in an `em.expectation`.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def model(theta):
        ...     em.sample("x", dist.Normal(em.sample("z", dist.Normal(theta, 1.0)), 1.0))
        >>> @em.gen
        ... def guide(phi, x):
        ...     em.sample("z", dist.Normal(phi * x, 0.7))
        >>> @em.expectation
        ... def objective(theta, phi):
        ...     return em.sleep(
        ...         lambda: model.simulate(theta),
        ...         lambda c: guide.log_density({"z": c["z"]}, phi, c["x"]))
        >>> grads = objective.grad(
        ...     jax.random.key(0), 0.0, 0.5, argnums=(0, 1), num_samples=4000)
        >>> float(grads[0]), bool(abs(grads[1]) < 0.1)  # E[z | x] = x / 2
        (0.0, True)
    """
    choices = drawn(dream, "sleep", detached=True).choices
    return -log_density(log_q, choices, "sleep")
