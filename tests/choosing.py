"""Three problems with discrete latents, on which strategies are compared."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from sklearn.datasets import load_digits

import estimand as em


@em.expectation
def plate(logits):
    """Lanes apart, each with a data term of its own."""
    data = jnp.linspace(-2.0, 3.0, 20)

    def lane(logit, y):
        z = em.sample("z", dist.Bernoulli(logits=logit)).astype(float)
        log_q = z * logit - jax.nn.softplus(logit)
        return dist.Normal(2.0 * z - 0.5, 1.0).log_prob(y) - log_q

    return jax.vmap(lane)(logits, data).sum()


@em.expectation
def mixture(params):
    """Assignments of data to three components, whose means are learned as well."""
    data = jnp.array([-3.0, -2.5, -2.8, 0.1, 0.3, 2.2, 2.9, 3.1])

    def lane(logits, y):
        k = em.sample("k", dist.Categorical(logits=logits))
        return dist.Normal(params["means"][k], 0.7).log_prob(y) - jax.nn.log_softmax(logits)[k]

    return jax.vmap(lane)(params["logits"], data).sum()


DIGITS = (load_digits().data[:3] > 7).astype(np.float32)
UPPER, LOWER = 4, 12  # 4,096 points of the lower layer: more than are enumerated


@em.gen
def recognition(params):
    def one(x):
        lower = dist.Bernoulli(logits=x @ params["lower"])
        h = em.sample("h1", lower).astype(x.dtype)
        em.sample("h2", dist.Bernoulli(logits=h @ params["upper"]))

    jax.vmap(one)(jnp.asarray(DIGITS))


def bernoulli(logits, x):
    return jnp.sum(x * logits - jax.nn.softplus(logits), axis=-1)


@em.expectation
def belief_network(params):
    """The bound of a sigmoid belief network of two layers, on binarised digits."""
    q = recognition.simulate(params)
    h1, h2 = (q.choices[name].astype(DIGITS.dtype) for name in ("h1", "h2"))
    joint = bernoulli(h1 @ params["pixels"], DIGITS) + bernoulli(h2 @ params["between"], h1)
    return jnp.sum(joint) - UPPER * len(DIGITS) * jnp.log(2.0) - q.log_density


def weights(seed, *shape):
    return 0.3 * jax.random.normal(jax.random.key(seed), shape, dtype=DIGITS.dtype)


PROBLEMS = {
    "plate": (plate, jnp.linspace(-1.0, 1.0, 20)),
    "mixture": (
        mixture,
        {"means": jnp.array([-2.0, 0.0, 2.0]), "logits": jnp.zeros((8, 3))},
    ),
    "belief network": (
        belief_network,
        {
            "lower": weights(0, 64, LOWER),
            "upper": weights(1, LOWER, UPPER),
            "pixels": weights(2, LOWER, 64),
            "between": weights(3, UPPER, LOWER),
        },
    ),
}
