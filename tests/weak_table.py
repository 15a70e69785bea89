"""The distributions with a weak derivative, their parameters, and the same laws in scipy."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy import stats

import estimand as em
from tests.oracle import sigmoid, softmax
from tests.quadrature import gradient, nodes

LANES, COIN, HEADS = (1.0, 1.2), (1.0, 1.3), 0.4  # what the parameters are scaled by


def first(x):
    """The first coordinate of vectors of three."""
    return x[..., 0] if x.shape[-1:] == (3,) else x


@dataclasses.dataclass(frozen=True)
class Row:
    """A distribution at `theta`, and the scipy law that it is."""

    make: Callable
    theta: tuple
    law: Callable
    jump: float
    smooth: Callable = lambda xp, x: xp.sin(x) + 0.3 * x

    def means(self, t):
        """E[smooth] and P(x > jump)."""
        x, w = nodes(self.law(t), self.jump)
        return np.array([w @ self.smooth(np, x), w @ (first(x) > self.jump)])

    def exact(self, t, meet):
        if not meet:
            return self.means(t)
        tails, heads = (np.prod([self.means(t * c * k) for k in LANES], axis=0) for c in COIN)
        return (1 - HEADS) * tails + HEADS * heads

    def answer(self, meet):
        """The two values [2], and their gradients [2, parameters]."""
        t = np.array(self.theta)
        return self.exact(t, meet), gradient(lambda t: self.exact(t, meet), t)

    def terms(self, x):
        x = x.astype(float)
        return jnp.stack([self.smooth(jnp, x), (first(x) > self.jump).astype(float)])

    def draw(self, t):
        return self.terms(em.draw(self.make(t), via=em.MeasureValued()))

    def objective(self, meet):
        @em.expectation
        def objective(t, choice):
            if not meet:
                return self.draw(t) @ choice
            coin = em.draw(dist.Bernoulli(probs=HEADS), via=em.Enumerate())
            scales = jnp.array(COIN, t.dtype)[coin] * jnp.array(LANES, t.dtype)
            return jnp.prod(jax.vmap(lambda k: self.draw(t * k))(scales), axis=0) @ choice

        return Both(objective)


@dataclasses.dataclass(frozen=True)
class Both:
    """The two terms of an objective, each by itself."""

    objective: em.Expectation

    def init(self, key, t):
        return ()

    def value_and_grad(self, key, t, argnums=0, state=None):
        def one(choice):
            return self.objective.value_and_grad(key, t, choice, argnums=argnums)

        return jax.vmap(one)(jnp.eye(2, dtype=t.dtype)), state


def counts(xp, x):
    return xp.sqrt(1.0 + x)


def coordinates(xp, x):
    return xp.sin(2.0 * x[..., 0]) + x[..., 1] * x[..., 0] + 2.0 * x[..., 2] ** 2


def weighted(t):
    t = np.asarray(t)
    return t / t.sum()


def softened(t):
    return softmax(np.array([t[0], t[1], 0.0]))


def picked(weights):
    return stats.rv_discrete(values=(np.arange(len(weights)), weights))


ROWS = {
    "Bernoulli in probs": Row(
        lambda t: dist.Bernoulli(probs=t[0]), (0.4,), lambda t: stats.bernoulli(t[0]), 0.5
    ),
    "Bernoulli in logits": Row(
        lambda t: dist.Bernoulli(logits=t[0]), (0.4,), lambda t: stats.bernoulli(sigmoid(t[0])), 0.5
    ),
    "Categorical in probs": Row(
        lambda t: dist.Categorical(probs=t), (0.4, 0.5, 0.7), lambda t: picked(weighted(t)), 1.5
    ),
    "Categorical in logits": Row(
        lambda t: dist.Categorical(logits=jnp.append(t, 0.0)),
        (0.4, -0.5),
        lambda t: picked(softened(t)),
        0.5,
    ),
    "Binomial in probs": Row(
        lambda t: dist.Binomial(5, probs=t[0]), (0.4,), lambda t: stats.binom(5, t[0]), 2.5, counts
    ),
    "Binomial in logits": Row(
        lambda t: dist.Binomial(4, logits=t[0]),
        (-0.6,),
        lambda t: stats.binom(4, sigmoid(t[0])),
        1.5,
        counts,
    ),
    "Poisson": Row(
        lambda t: dist.Poisson(t[0]), (1.4,), lambda t: stats.poisson(t[0]), 1.5, counts
    ),
    "Normal": Row(lambda t: dist.Normal(t[0], t[1]), (0.4, 0.8), lambda t: stats.norm(*t), 0.9),
    "LogNormal": Row(
        lambda t: dist.LogNormal(t[0], t[1]),
        (0.4, 0.6),
        lambda t: stats.lognorm(t[1], scale=np.exp(t[0])),
        2.1,
        counts,
    ),
    "Exponential": Row(
        lambda t: dist.Exponential(t[0]), (0.8,), lambda t: stats.expon(scale=1 / t[0]), 0.9
    ),
    "Weibull": Row(
        lambda t: dist.Weibull(t[0], 1.7), (1.2,), lambda t: stats.weibull_min(1.7, scale=t[0]), 0.9
    ),
    "Gamma": Row(
        lambda t: dist.Gamma(t[0], t[1]),
        (1.4, 0.8),
        lambda t: stats.gamma(t[0], scale=1 / t[1]),
        1.1,
    ),
    "Gamma of a small concentration": Row(
        lambda t: dist.Gamma(t[0], 1.5), (0.3,), lambda t: stats.gamma(t[0], scale=1 / 1.5), 0.2
    ),
    "Beta": Row(lambda t: dist.Beta(t[0], t[1]), (0.8, 1.3), lambda t: stats.beta(*t), 0.25),
    "Dirichlet": Row(dist.Dirichlet, (0.8, 1.3, 1.1), np.asarray, 0.3, coordinates),
}
