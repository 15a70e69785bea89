"""Every strategy with every distribution, in every context: what the table of the docs is made of.

The program is E[f(x)], f = sin((s - mean - sd/2) / sd) of a weighted sum s with its mean and
standard deviation at `THETA`: the gradients of all cells are then of about the size of their noise.
m(theta) is known from a sum or a quadrature over `points`. In context it is a function of m alone,
so the same numbers serve:

    alone   f(x)                                                m
    vmap    three lanes apart, and three that meet              6 m + m^3, weights 1, 2, 3
    scan    a product in the carry of two steps                 m^2
    cond    one branch draws, the other does not                m
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from jax import lax

import estimand as em

THETA = jnp.array([0.4, 0.7])
EYE = jnp.eye(2)
GRID = 4001


@dataclasses.dataclass(frozen=True)
class Cell:
    """A distribution of t, its support as points (with the quadrature's weights), and weights of
    the coordinates of a draw.
    """

    make: Callable
    points: np.ndarray
    weights: np.ndarray
    coordinates: tuple = ()
    density: Callable | None = None  # of the points, if they are not draws but their weighted sum

    def f(self, x):
        return self.of_sum(self.sum(jnp.asarray(x).astype(float)))

    def sum(self, x):
        return x @ jnp.array(self.coordinates) if self.coordinates else x

    def of_sum(self, s):
        mean, sd = self.moments
        return jnp.sin((s - mean) / sd - 0.5)

    def mean(self, t):
        return jnp.sum(self.mass(t) * self.of_sum(self.sums))

    def mass(self, t):
        with jax.numpy_dtype_promotion("standard"):
            p = self.density(t) if self.density else self.make(t)
            return jnp.exp(p.log_prob(jnp.asarray(self.points))) * self.weights

    @property
    def sums(self):
        points = jnp.asarray(self.points).astype(float)
        return points if self.density else self.sum(points)

    @functools.cached_property
    def moments(self):
        """Mean and standard deviation of the sum, as numbers."""
        with jax.ensure_compile_time_eval():
            mass, sums = (np.asarray(x, np.float64) for x in (self.mass(THETA), self.sums))
        mean = mass @ sums
        return float(mean), float(np.sqrt(mass @ (sums - mean) ** 2))


def between(low, high):
    """The points of Simpson's rule."""
    points = np.linspace(low, high, GRID)
    weights = np.ones(GRID)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    return points.astype(np.float32), (weights * (high - low) / (GRID - 1) / 3).astype(np.float32)


def integers(stop, start=0):
    return np.arange(start, stop), np.ones(stop - start, np.float32)


SIMPLEX = np.eye(3, dtype=int)
PAIR = (0.5, 1.0)


def simplex(t):
    return jnp.stack([0.4 * t[0], 0.5 * t[1], 1 - 0.4 * t[0] - 0.5 * t[1]])


def scores(t):
    return jnp.stack([t[0], -t[1], 0.3 * t[0]])


def mixture(t):
    parts = dist.Normal(jnp.stack([t[0], -1.0 + 0 * t[0]]), jnp.stack([t[1], 0.5 + 0 * t[1]]))
    return dist.MixtureSameFamily(dist.Categorical(probs=jnp.stack([t[0], 1 - t[0]])), parts)


CELLS = {
    "Bernoulli(probs)": Cell(lambda t: dist.Bernoulli(probs=t[0] * t[1]), *integers(2)),
    "Bernoulli(logits)": Cell(lambda t: dist.Bernoulli(logits=t[0] - t[1]), *integers(2)),
    "Categorical(probs)": Cell(lambda t: dist.Categorical(probs=simplex(t)), *integers(3)),
    "Categorical(logits)": Cell(lambda t: dist.Categorical(logits=scores(t)), *integers(3)),
    "Multinomial(1, probs)": Cell(
        lambda t: dist.Multinomial(1, simplex(t)), SIMPLEX, np.ones(3), (0.3, 1.0, 2.0)
    ),
    "Binomial": Cell(lambda t: dist.Binomial(4, probs=t[0] * t[1]), *integers(5)),
    "Poisson": Cell(lambda t: dist.Poisson(t[0] + t[1]), *integers(24)),
    "Geometric": Cell(lambda t: dist.Geometric(probs=0.3 + 0.5 * t[0] * t[1]), *integers(60)),
    "NegativeBinomial": Cell(lambda t: dist.NegativeBinomial2(t[0], t[1] + 1), *integers(60)),
    "Normal": Cell(lambda t: dist.Normal(t[0], t[1]), *between(-6.0, 7.0)),
    "LogNormal": Cell(lambda t: dist.LogNormal(t[0], 0.5 * t[1]), *between(1e-3, 16.0)),
    "Gamma": Cell(lambda t: dist.Gamma(t[0] + 2, t[1] + 1), *between(1e-4, 20.0)),
    "Beta": Cell(lambda t: dist.Beta(t[0] + 2, t[1] + 2), *between(1e-5, 1 - 1e-5)),
    "Exponential": Cell(lambda t: dist.Exponential(t[0] + t[1]), *between(1e-6, 18.0)),
    "Weibull": Cell(lambda t: dist.Weibull(t[0] + t[1], 2.0), *between(1e-6, 8.0)),
    "StudentT": Cell(lambda t: dist.StudentT(5.0, t[0], 0.5 * t[1]), *between(-25.0, 25.0)),
    "Laplace": Cell(lambda t: dist.Laplace(t[0], 0.5 * t[1]), *between(-7.6, 8.4)),
    "TruncatedNormal": Cell(
        lambda t: dist.TruncatedNormal(t[0], t[1], low=-1.0, high=2.0), *between(-1.0, 2.0)
    ),
    "VonMises": Cell(lambda t: dist.VonMises(t[0], t[1] + 1), *between(-np.pi, np.pi)),
    "Dirichlet": Cell(
        lambda t: dist.Dirichlet(jnp.stack([t[0] + 2, t[1] + 2])),
        *between(0.5 + 1e-5, 1 - 1e-5),
        PAIR,
        lambda t: dist.TransformedDistribution(
            dist.Beta(t[1] + 2, t[0] + 2), dist.transforms.AffineTransform(0.5, 0.5)
        ),
    ),
    "MultivariateNormal": Cell(
        lambda t: dist.MultivariateNormal(t, EYE + 0.2 * t[0]),
        *between(-8.0, 9.0),
        PAIR,
        lambda t: dist.Normal(
            t @ jnp.array(PAIR), jnp.sqrt(jnp.array(PAIR) @ (EYE + 0.2 * t[0]) @ jnp.array(PAIR))
        ),
    ),
    "MixtureSameFamily": Cell(mixture, *between(-4.0, 5.0)),
}


STRATEGIES = {
    "Pathwise": em.Pathwise(),
    "Score": em.Score(),
    "Score(MovingAverage)": em.Score(em.MovingAverage()),
    "Score(LearnedBaseline)": em.Score(em.LearnedBaseline()),
    "LeaveOneOut": em.LeaveOneOut(3),
    "Vimco": em.Vimco(),
    "Enumerate": em.Enumerate(),
    "WithoutReplacement": em.WithoutReplacement(2),
    "MeasureValued": em.MeasureValued(),
    "Stratified": em.Stratified(),
    "DisArm": em.DisArm(),
    "Rebar": em.Rebar(optimizer=optax.adam(1e-2)),
    "Relax": em.Relax(),
}
BIASED = {
    "GumbelSoftmax": em.GumbelSoftmax(biased=True),
    "StraightThrough": em.StraightThrough(biased=True),
}


def alone(cell, via, t):
    return cell.f(em.draw(cell.make(t), via=via))


def in_a_vmap(cell, via, t):
    fs = jax.vmap(lambda weight: cell.f(em.draw(cell.make(t), via=via)))(jnp.arange(3))
    return fs @ jnp.array([1.0, 2.0, 3.0]) + jnp.prod(fs)


def in_a_scan(cell, via, t):
    def step(product, _):
        return product * cell.f(em.draw(cell.make(t), via=via)), None

    return lax.scan(step, jnp.ones(()), None, length=2)[0]


def in_a_cond(cell, via, t):
    return lax.cond(t[0] > 0, lambda: alone(cell, via, t), lambda: jnp.zeros(()))


CONTEXTS = {
    "alone": (alone, lambda m: m),
    "vmap": (in_a_vmap, lambda m: 6 * m + m**3),
    "scan": (in_a_scan, lambda m: m**2),
    "cond": (in_a_cond, lambda m: m),
}


def objective(cell, via, context):
    program = CONTEXTS[context][0]
    return em.expectation(lambda t: program(cell, via, t))


def exact(cell, context):
    """The mean, as a function of theta."""
    return lambda t: CONTEXTS[context][1](cell.mean(t))
