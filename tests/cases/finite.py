"""Programs with finite latent choices, what is observed of them, and the supports of the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax

import estimand as em

TABLE = jnp.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])


def real(z):
    return z.astype(float)


class Models(dict):
    """Programs of theta by name, with what is observed and the supports of the rest."""

    def __call__(self, observed, **latent):
        def add(fun):
            names = {k.replace("__", "/"): v for k, v in latent.items()}
            self[fun.__name__] = em.gen(fun), observed, names
            return fun

        return add


MODELS = Models()
TWO, THREE = (0, 1), (0, 1, 2)
X4, X3 = jnp.array([0.3, -0.2, 1.5, 0.4]), jnp.array([0.3, 1.2, -0.7])


@MODELS({"x": X4}, z=(THREE, np.zeros(4)))
def plate_by_vmap(theta):
    def one(_):
        z = em.sample("z", dist.Categorical(logits=theta))
        em.sample("x", dist.Normal(theta[z], 0.5))

    jax.vmap(one)(jnp.arange(4))


@MODELS({"x": X4}, z=(THREE, np.zeros(4)))
def plate_by_shape(theta):
    z = em.sample("z", dist.Categorical(logits=jnp.broadcast_to(theta, (4, 3))))
    em.sample("x", dist.Normal(theta[z], 0.5))


@MODELS({"x": X4}, g=(TWO, 0), z=(THREE, np.zeros(4)))
def a_choice_for_all_and_one_for_each(theta):
    g = em.sample("g", dist.Bernoulli(logits=theta[0]))
    z = em.sample("z", dist.Categorical(logits=jnp.outer(jnp.ones(4), theta * (1.0 + real(g)))))
    em.sample("x", dist.Normal(theta[z] - 0.3 * real(g), 0.5))


@MODELS({"x": X3}, a=(TWO, np.zeros(3)), b=(TWO, np.zeros((3, 2))))
def plate_in_plate(theta):
    def outer(t):
        a = em.sample("a", dist.Bernoulli(logits=t))
        inner = lambda s: em.sample("b", dist.Bernoulli(logits=s + real(a)))  # noqa: E731
        em.sample("x", dist.Normal(real(jnp.sum(jax.vmap(inner)(theta[:2]))), 1.0))

    jax.vmap(outer)(theta)


@MODELS({"x": 0.4}, z=(TWO, np.zeros(4)))
def lanes_that_meet(theta):
    z = em.sample("z", dist.Bernoulli(logits=theta[0] * jnp.arange(4.0)))
    em.sample("x", dist.Normal(theta[1] * real(jnp.sum(z) % 2), 1.0))


@MODELS({"x": X4}, first=(THREE, 0), z=(THREE, np.zeros(4)))
def chain(theta):
    def step(z, _):
        z = em.sample("z", dist.Categorical(TABLE[z] * jax.nn.softmax(theta)))
        em.sample("x", dist.Normal(theta[z], 0.5))
        return z, None

    lax.scan(step, em.sample("first", dist.Categorical(logits=theta)), None, length=4)


@MODELS({"x": X3}, z=(TWO, np.zeros(3)))
def chain_backwards_from_a_constant(theta):
    def step(carry, x):
        z, n = carry
        z = em.sample("z", dist.Bernoulli(logits=x + theta[1] * real(z) + 0.1 * n))
        em.sample("x", dist.Normal(theta[0] * real(z) + n, 1.0))
        return (z, n + 1.0), n

    _, ns = lax.scan(step, (jnp.array(1), 0.0), theta, reverse=True)
    em.factor("after", -jnp.sum(ns) * theta[2])


@MODELS({"x": jnp.outer(X3, jnp.ones(2))}, z=(TWO, np.zeros((3, 2))))
def chains_side_by_side(theta):
    def one(t):
        def step(z, _):
            z = em.sample("z", dist.Bernoulli(logits=t + theta[1] * real(z)))
            em.sample("x", dist.Normal(theta[0] * real(z), 1.0))
            return z, None

        lax.scan(step, jnp.array(0), None, length=3)

    jax.vmap(one)(theta[:2])


@MODELS({"x": X3}, a=(TWO, np.zeros(3)), b=(TWO, np.zeros(3)))
def factorial_chain(theta):
    def step(carry, _):
        a, b = carry
        a = em.sample("a", dist.Bernoulli(logits=theta[0] + real(a)))
        b = em.sample("b", dist.Bernoulli(logits=theta[1] - real(b)))
        em.sample("x", dist.Normal(theta[2] * real(a) + real(b), 1.0))
        return (a, b), None

    lax.scan(step, (jnp.array(0), jnp.array(1)), None, length=3)


@MODELS({"x": X3}, k=(TWO, 0), z=(TWO, np.zeros(3)))
def chain_under_a_choice_for_all(theta):
    k = em.sample("k", dist.Bernoulli(logits=theta[2]))

    def step(z, _):
        z = em.sample("z", dist.Bernoulli(logits=theta[0] * real(k) + real(z)))
        em.sample("x", dist.Normal(theta[1] * real(z) + real(k), 1.0))
        return z, None

    lax.scan(step, k, None, length=3)


@MODELS({"x": jnp.outer(X3, jnp.ones(2))}, a=(TWO, np.zeros(3)), b=(TWO, np.zeros((3, 2))))
def chain_in_a_chain(theta):
    def step(a, _):
        a = em.sample("a", dist.Bernoulli(logits=theta[0] + real(a)))

        def inner(b, _):
            b = em.sample("b", dist.Bernoulli(logits=theta[1] + real(a) - real(b)))
            em.sample("x", dist.Normal(theta[2] * real(b) + real(a), 1.0))
            return b, None

        lax.scan(inner, a, None, length=2)
        return a, None

    lax.scan(step, jnp.array(0), None, length=3)


@MODELS({"x": jnp.array([0, 2, 1])}, z=(THREE, np.zeros(3)))
def chain_with_impossible_moves(theta):
    moves = jnp.where(jnp.tril(jnp.ones((3, 3))) > 0, 1.0, 0.0) * jax.nn.softmax(theta)
    sights = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.3, 0.3, 0.4]])

    def step(z, _):
        z = em.sample("z", dist.Categorical(moves[z]))
        em.sample("x", dist.Categorical(sights[z] * jax.nn.softmax(theta[::-1])))
        return z, None

    lax.scan(step, jnp.array(2), None, length=3)


@MODELS({"x": 0.5}, z=(THREE, 0))
def a_point_that_the_rest_cannot_bear(theta):
    z = em.sample("z", dist.Categorical(jnp.array([0.0, 0.4, 0.6])))
    em.sample("x", dist.Normal(theta[0] / real(z), 1.0))  # not at zero, which is impossible


@MODELS({"x": X3}, s__z=(THREE, np.zeros(3)), w=(TWO, 0))
def checkpoint_jit_and_scope(theta):
    @jax.checkpoint
    def mean(z):
        return jax.jit(lambda z: theta[z])(z)

    with em.scope("s"):
        z = em.sample("z", dist.Categorical(logits=jnp.outer(theta, theta)))
    w = em.sample("w", dist.Bernoulli(logits=theta[1]))
    em.sample("x", dist.Normal(mean(z) + real(w), 1.0))
    em.factor("f", lax.cond(w == 1, lambda: theta[0], lambda: theta[1]))


@MODELS({"x": 0.4}, z=(TWO, 0), s=(TWO, np.zeros(2)))
def factors_that_are_one_value_or_a_constant(theta):
    z = em.sample("z", dist.Bernoulli(0.5))
    for name, weight in (("a", theta[0]), ("b", theta[0] * real(z))):
        em.factor(name, weight)
        em.factor(f"{name} again", weight)
    em.factor("constant", jnp.log(2.0))

    def step(carry, _):
        s = em.sample("s", dist.Bernoulli(0.3))
        for name in ("c", "c again"):
            em.factor(name, theta[1] * real(s))
        em.factor("d", jnp.log(3.0))
        return carry, None

    lax.scan(step, 0.0, None, length=2)
    em.sample("x", dist.Normal(theta[2] * real(z), 1.0))
