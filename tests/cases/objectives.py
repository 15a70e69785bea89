"""The objectives of the library on two small problems, each with its exact answer: closed forms of
normals, or all outcomes of a discrete guide's particles. And twins of them that are wrong.
"""

import itertools

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax
from jax.scipy.special import xlogy

import estimand as em

DATUM, NOISE, OUTCOMES = 1.2, 0.5, 3
T = {"theta": jnp.array(0.3), "mean": jnp.array(0.6), "log_scale": jnp.array(-0.4)}
D = {"theta": jnp.array(0.7), "logits": jnp.array([0.2, -0.4, 0.5])}


@em.gen
def normal(mean, log_scale):
    em.sample("z", dist.Normal(mean, jnp.exp(log_scale)))


@em.gen
def model(theta):
    z = em.sample("z", dist.Normal(theta, 1.0))
    em.sample("x", dist.Normal(z, NOISE))


@em.gen
def mixture(theta):
    z = em.sample("z", dist.Categorical(logits=jnp.zeros(OUTCOMES)))
    em.sample("x", dist.Normal(theta * z.astype(float), NOISE))


@em.gen
def choice(logits):
    em.sample("z", dist.Categorical(logits=logits))


def joint(t):
    return lambda z: model.log_density(em.merge(z, {"x": DATUM}), t["theta"])


def guide(t):
    return lambda: normal.simulate(t["mean"], t["log_scale"])


def mixed(t):
    return lambda z: mixture.log_density(em.merge(z, {"x": DATUM}), t["theta"])


def chosen(t):
    return lambda: choice.simulate(t["logits"])


# closed forms of normals


def density(mean, scale, x):
    return dist.Normal(mean, scale).log_prob(x)


def evidence(t):
    return density(t["theta"], jnp.sqrt(1.0 + NOISE**2), DATUM)


def posterior(t):
    variance = 1.0 / (1.0 + NOISE**-2)
    return variance * (t["theta"] + DATUM / NOISE**2), jnp.sqrt(variance)


def q_of(t):
    return t["mean"], jnp.exp(t["log_scale"])


def p_of(t):
    return t["theta"], jnp.array(0.5)


def kl(p, q):
    return jnp.log(q[1] / p[1]) + (p[1] ** 2 + (p[0] - q[0]) ** 2) / (2 * q[1] ** 2) - 0.5


def squared_hellinger(p, q):
    both = p[1] ** 2 + q[1] ** 2
    affinity = jnp.sqrt(2 * p[1] * q[1] / both) * jnp.exp(-((p[0] - q[0]) ** 2) / (4 * both))
    return 2.0 - 2.0 * affinity


def second_moment(p, q):
    """E_q[(p / q)^2]."""
    spread = 2 * q[1] ** 2 - p[1] ** 2
    return q[1] ** 2 / (p[1] * jnp.sqrt(spread)) * jnp.exp((p[0] - q[0]) ** 2 / spread)


def exact_sleep(t):
    """E[-log q(z | x)] of q = N(0.8 x + mean, scale), for (z, x) that do not move with theta."""
    offset = 0.2 * lax.stop_gradient(t["theta"]) - t["mean"]
    square = offset**2 + 0.2**2 + (0.8 * NOISE) ** 2
    return 0.5 * jnp.log(2 * jnp.pi) + t["log_scale"] + square / (2 * jnp.exp(2 * t["log_scale"]))


# all outcomes of n particles


def log_weights_of(t, z, drawn_by):
    log_joint = jax.vmap(lambda k: mixed(t)({"z": k}))(z)
    return log_joint - jax.nn.log_softmax(drawn_by)[z]


def over_particles(n, f, detached=False):
    """E[f(t, z)] of z_1, ..., z_n, drawn from the guide, or from it detached."""
    tuples = jnp.array(list(itertools.product(range(OUTCOMES), repeat=n)))

    def exact(t):
        drawn_by = lax.stop_gradient(t["logits"]) if detached else t["logits"]
        probs = jnp.exp(jax.nn.log_softmax(drawn_by)[tuples].sum(1))
        return probs @ jax.vmap(lambda z: f(t, z, log_weights_of(t, z, drawn_by)))(tuples)

    return exact


def power_mean(alpha):
    def f(t, z, log_w):
        if alpha == 1.0:
            return log_w.mean()
        return jnp.log(jnp.mean(jnp.exp((1 - alpha) * log_w))) / (1 - alpha)

    return f


def weighted_cross_entropy(t, z, log_w):
    weights = jax.nn.softmax(lax.stop_gradient(log_w))
    return -weights @ jax.nn.log_softmax(t["logits"])[z]


# objectives, each with its exact answer and the point at which both are differentiated


def log_normal(parameters):
    return lambda z: normal.log_density(z, parameters[0], jnp.log(parameters[1]))


def simulate_normal(parameters):
    return lambda: normal.simulate(parameters[0], jnp.log(parameters[1]))


def dreamt_guide(t):
    return lambda c: density(0.8 * c["x"] + t["mean"], jnp.exp(t["log_scale"]), c["z"])


def log_choice(t):
    return lambda z: choice.log_density(z, t["logits"])


SCALE = -1.5
NORMAL = {
    "elbo": (
        lambda t: em.elbo(joint(t), guide(t)),
        lambda t: evidence(t) - kl(q_of(t), posterior(t)),
    ),
    "chi": (
        lambda t: em.chi(joint(t), guide(t), log_scale=SCALE),
        lambda t: jnp.exp(2 * (evidence(t) - SCALE)) * second_moment(posterior(t), q_of(t)),
    ),
    "reverse KL": (
        lambda t: em.reverse_kl(log_normal(p_of(t)), guide(t)),
        lambda t: kl(q_of(t), p_of(t)),
    ),
    "forward KL": (
        lambda t: em.forward_kl(simulate_normal(p_of(t)), log_normal(q_of(t))),
        lambda t: kl(p_of(t), q_of(t)),
    ),
    "symmetric KL": (
        lambda t: em.symmetric_kl(
            log_normal(p_of(t)), simulate_normal(p_of(t)), log_normal(q_of(t)), guide(t)
        ),
        lambda t: kl(p_of(t), q_of(t)) + kl(q_of(t), p_of(t)),
    ),
    "f: squared Hellinger": (
        lambda t: em.f_divergence(lambda r: (jnp.sqrt(r) - 1) ** 2, log_normal(p_of(t)), guide(t)),
        lambda t: squared_hellinger(p_of(t), q_of(t)),
    ),
    "f: forward KL": (
        lambda t: em.f_divergence(lambda r: xlogy(r, r), log_normal(p_of(t)), guide(t)),
        lambda t: kl(p_of(t), q_of(t)),
    ),
    "sleep": (
        lambda t: em.sleep(lambda: model.simulate(t["theta"]), dreamt_guide(t)),
        exact_sleep,
    ),
}
DISCRETE = {
    "iwelbo": (lambda t: em.iwelbo(mixed(t), chosen(t), 3), over_particles(3, power_mean(0.0))),
    "wake theta": (
        lambda t: em.wake_theta(mixed(t), chosen(t), 3),
        over_particles(3, power_mean(0.0), detached=True),
    ),
    "wake phi": (
        lambda t: em.wake_phi(mixed(t), chosen(t), log_choice(t), 3),
        over_particles(3, weighted_cross_entropy, detached=True),
    ),
} | {
    f"renyi {alpha}": (
        lambda t, alpha=alpha: em.renyi(mixed(t), chosen(t), 3, alpha),
        over_particles(3, power_mean(alpha)),
    )
    for alpha in (-1.0, 0.5, 1.0, 2.0)
}


def detached(t):
    q = guide(t)()
    return q._replace(choices=em.detach(q.choices))


def live_wake_phi(t):
    def particle(_):
        q = chosen(t)()
        return mixed(t)(q.choices) - q.log_density, q.log_density

    log_w, log_q = jax.vmap(particle)(jnp.arange(3))
    return -jnp.sum(jax.nn.softmax(log_w) * log_q)


BROKEN = {
    "elbo, pathwise derivative lost": (
        lambda t: em.elbo(joint(t), lambda: detached(t)), NORMAL["elbo"][1], T
    ),
    "chi, pathwise derivative lost": (
        lambda t: em.chi(joint(t), lambda: detached(t), log_scale=SCALE), NORMAL["chi"][1], T
    ),
    "iwelbo, logarithm inside": (
        lambda t: em.renyi(mixed(t), chosen(t), 3, 1.0), DISCRETE["iwelbo"][1], D
    ),
    "renyi, not normalised": (
        lambda t: em.renyi(mixed(t), chosen(t), 3, 0.5) * 0.5, DISCRETE["renyi 0.5"][1], D
    ),
    "forward KL, drawn from the other": (
        lambda t: -em.reverse_kl(log_normal(p_of(t)), guide(t)), NORMAL["forward KL"][1], T
    ),
    "reverse KL, pathwise derivative lost": (
        lambda t: em.reverse_kl(log_normal(p_of(t)), lambda: detached(t)),
        NORMAL["reverse KL"][1],
        T,
    ),
    "f, of the inverse ratio": (
        lambda t: em.f_divergence(lambda r: -jnp.log(r), log_normal(p_of(t)), guide(t)),
        NORMAL["f: forward KL"][1],
        T,
    ),
    "wake theta, not detached": (DISCRETE["iwelbo"][0], DISCRETE["wake theta"][1], D),
    "wake phi, not detached": (live_wake_phi, DISCRETE["wake phi"][1], D),
    "sleep, not detached": (
        lambda t: -dreamt_guide(t)(model.simulate(t["theta"]).choices), exact_sleep, T
    ),
}  # fmt: skip
