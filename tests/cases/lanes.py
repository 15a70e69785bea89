"""Cases: flips and categoricals in plates, and what a program does with the lanes."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import estimand as em
from tests.cases.table import DISCRETE, case, flip, pick
from tests.oracle import flip_logpmf, normal_logpdf, sigmoid, softmax

LEVELS = np.array([-0.5, 0.2, 0.9])
DATA = np.array([0.3, -0.4, 1.1])


@case((0.3, 0.7), DISCRETE)
class OneFlip:
    def program(t, via):
        return (flip(t[0], via) - t[1]) ** 2

    def exact(world, t):
        return (world.flip(t[0]) - t[1]) ** 2


@case((0.4, -0.8), DISCRETE)
class DependentFlips:
    def program(t, via):
        x = flip(t[0], via)
        y = flip(jax.nn.sigmoid(t[1] + 2 * x), via)
        return (x + 2 * y) ** 2 * t[1] + x

    def exact(world, t):
        x = world.flip(t[0])
        y = world.flip(sigmoid(t[1] + 2 * x))
        return (x + 2 * y) ** 2 * t[1] + x


@case((0.2, 0.6), DISCRETE)
class ChainOfFlips:
    def program(t, via):
        state, total = 1.0, 0.0
        for _ in range(5):
            following = flip(jax.nn.sigmoid(t[0] + t[1] * state), via)
            total = total + (following - 0.5 * state) ** 2
            state = following
        return total

    def exact(world, t):
        state, total = 1.0, 0.0
        for _ in range(5):
            following = world.flip(sigmoid(t[0] + t[1] * state))
            total = total + (following - 0.5 * state) ** 2
            state = following
        return total


@case((0.3, 0.5), DISCRETE)
class LanesInTheirOwnDensity:
    def program(t, via):
        def lane(level):
            p = jax.nn.sigmoid(t[0] + level)
            x = em.draw(dist.Bernoulli(probs=p), via=via)
            prior = dist.Bernoulli(probs=jax.nn.sigmoid(t[1] * level)).log_prob(x)
            return prior - dist.Bernoulli(probs=p).log_prob(x)

        return jax.vmap(lane)(jnp.asarray(LEVELS, t.dtype)).sum()

    def exact(world, t):
        total = 0.0
        for level in LEVELS:
            p = sigmoid(t[0] + level)
            x = world.flip(p)
            total += flip_logpmf(x, sigmoid(t[1] * level)) - flip_logpmf(x, p)
        return total


@case((0.3, 0.5), DISCRETE)
class LanesThatNoParameterDistinguishes:
    def program(t, via):
        xs = jax.vmap(lambda _: flip(t[0], via))(jnp.arange(3))
        return (xs.sum() - t[1]) ** 3

    def exact(world, t):
        return (sum(world.flip(t[0]) for _ in range(3)) - t[1]) ** 3


@case((0.3, -0.6), DISCRETE)
class NativeBatchOfFlips:
    def program(t, via):
        xs = flip(jax.nn.sigmoid(t[0] + jnp.asarray(LEVELS, t.dtype)), via)
        return (jax.nn.relu(2 * xs + t[1]) ** 2).sum()

    def exact(world, t):
        xs = np.array([world.flip(p) for p in sigmoid(t[0] + LEVELS)])
        return (np.maximum(2 * xs + t[1], 0.0) ** 2).sum()


@case((0.3, 0.5, -0.7), DISCRETE)
class GatherByLane:
    def program(t, via):
        centres = jnp.stack([t[0], t[1], 2 * t[2]])
        zs = jax.vmap(lambda level: pick(jnp.stack([t[0] * level, t[1], t[2]]), via))(
            jnp.asarray(LEVELS, t.dtype)
        )
        return dist.Normal(centres[zs], 0.8).log_prob(jnp.asarray(DATA, t.dtype)).sum()

    def exact(world, t):
        centres = np.array([t[0], t[1], 2 * t[2]])
        zs = [world.categorical(softmax([t[0] * level, t[1], t[2]])) for level in LEVELS]
        return normal_logpdf(DATA, centres[zs], 0.8).sum()


@case((0.3, 0.5), DISCRETE)
class LinearDotProduct:
    def program(t, via):
        xs = jax.vmap(lambda level: flip(jax.nn.sigmoid(t[0] * level), via))(
            jnp.asarray(LEVELS, t.dtype)
        )
        return jnp.dot(xs, jnp.asarray(DATA, t.dtype)) * t[1]

    def exact(world, t):
        xs = np.array([world.flip(sigmoid(t[0] * level)) for level in LEVELS])
        return xs @ DATA * t[1]


@case((0.3, 0.5), DISCRETE)
class AlignedTermAndSquaredDotProduct:
    def program(t, via):
        xs = jax.vmap(lambda level: flip(jax.nn.sigmoid(t[0] + level), via))(
            jnp.asarray(LEVELS, t.dtype)
        )
        return ((xs - t[1]) ** 2).sum() + jnp.dot(xs, jnp.asarray(DATA, t.dtype)) ** 2

    def exact(world, t):
        xs = np.array([world.flip(p) for p in sigmoid(t[0] + LEVELS)])
        return ((xs - t[1]) ** 2).sum() + (xs @ DATA) ** 2


@case((0.3, 0.5), DISCRETE)
class LogSumExpOfLanes:
    def program(t, via):
        xs = jax.vmap(lambda level: flip(jax.nn.sigmoid(t[0] + level), via))(
            jnp.asarray(LEVELS, t.dtype)
        )
        return jax.nn.logsumexp(2 * xs - t[1] * xs**2)

    def exact(world, t):
        xs = np.array([world.flip(p) for p in sigmoid(t[0] + LEVELS)])
        return np.log(np.exp(2 * xs - t[1] * xs**2).sum())


@case((0.2, 0.7), DISCRETE, mixed=True)
class LogitsFromAnEarlierPlate:
    """The category axis of the second plate's parameters is the lane axis of the first: they
    must not be aligned.
    """

    def program(t, via):
        xs = jax.vmap(lambda level: flip(jax.nn.sigmoid(t[0] + level), via))(
            jnp.asarray(LEVELS, t.dtype)
        )
        logits = t[1] * jnp.stack([xs, 2 * xs, 1 - xs])
        ys = em.draw(dist.Categorical(logits=logits), via=em.Score())
        return (jnp.asarray(DATA, t.dtype)[ys] ** 2).sum() * 3

    def exact(world, t):
        xs = np.array([world.flip(p) for p in sigmoid(t[0] + LEVELS)])
        logits = t[1] * np.stack([xs, 2 * xs, 1 - xs])
        return sum(DATA[world.categorical(softmax(row))] ** 2 for row in logits) * 3


@case((0.2, 0.7), DISCRETE)
class PlateIntoPlate:
    def program(t, via):
        def lane(level):
            x = flip(jax.nn.sigmoid(t[0] + level), via)
            y = flip(jax.nn.sigmoid(t[1] * x - level), via)
            return jnp.exp(0.5 * x * y) + t[1] * y

        return jax.vmap(lane)(jnp.asarray(LEVELS, t.dtype)).sum()

    def exact(world, t):
        def lane(level):
            x = world.flip(sigmoid(t[0] + level))
            y = world.flip(sigmoid(t[1] * x - level))
            return np.exp(0.5 * x * y) + t[1] * y

        return sum(lane(level) for level in LEVELS)


@case((0.2, 0.7), (em.Score,))
class ShuffledPlateIntoEnumeratedPlate:
    def program(t, via):
        xs = jax.vmap(lambda level: flip(jax.nn.sigmoid(t[0] + level), via))(
            jnp.asarray(LEVELS, t.dtype)
        )
        xs = jnp.cumsum(jnp.roll(xs, 1))
        ys = jax.vmap(lambda x: flip(jax.nn.sigmoid(t[1] * x - 1), em.Enumerate()))(xs)
        return (xs * ys).sum()

    def exact(world, t):
        xs = np.cumsum(np.roll([world.flip(p) for p in sigmoid(t[0] + LEVELS)], 1))
        return sum(x * world.flip(sigmoid(t[1] * x - 1)) for x in xs)
