"""Programs for which a plausible compiler of gradient estimators is wrong, each with the exact
answer.

They were found by attacking designs: splitting a logsumexp at its stop_gradient, taking a
distribution's batch axes for lanes, crediting steps of a scan one by one, differentiating a
measure-valued estimate twice, masking dead points too late.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import estimand as em
from tests.cases import Table
from tests.cases.table import DISCRETE, flip, normal, pick
from tests.oracle import sigmoid, softmax

ATTACKS = Table()
case = ATTACKS.case
LEVELS = np.array([-0.5, 0.2, 0.9])


def plate(t, via):
    return jax.vmap(lambda level: flip(jax.nn.sigmoid(t + level), via))(
        jnp.asarray(LEVELS, t.dtype)
    )


def exact_plate(world, t):
    return np.array([world.flip(p) for p in sigmoid(t + LEVELS)])


@case((0.3,), DISCRETE)
class LogSumExpOfOneSite:
    """It holds a stop_gradient of its own, which detaches nothing: 1.105 is exact, -0.394 comes
    of taking it so.
    """

    def program(t, via):
        x = flip(t[0], via)
        return jax.nn.logsumexp(jnp.stack([2 * x, 0.5 - x]))

    def exact(world, t):
        x = world.flip(t[0])
        return np.logaddexp(2 * x, 0.5 - x)


@case((0.3, 0.8), DISCRETE)
class LogMeanWeightOfTwoLanes:
    def program(t, via):
        xs = jax.vmap(lambda _: flip(t[0], via))(jnp.arange(2))
        return 3 * (jax.nn.logsumexp(2 * xs * t[1]) - jnp.log(2.0))

    def exact(world, t):
        return 3 * np.log(
            (np.exp(2 * t[1] * world.flip(t[0])) + np.exp(2 * t[1] * world.flip(t[0]))) / 2
        )


@case((0.3, 0.8), DISCRETE)
class SoftmaxOfLanes:
    def program(t, via):
        return (
            jnp.dot(jax.nn.softmax(2 * plate(t[0], via)), jnp.asarray(LEVELS, t.dtype)) * t[1] * 3
        )

    def exact(world, t):
        return softmax(2 * exact_plate(world, t[0])) @ LEVELS * t[1] * 3


@case((0.3, 0.8), DISCRETE)
class BranchesOfAVmappedCond:
    """The cond becomes a select with both branches' sites: the estimate is unbiased all the
    same.
    """

    def program(t, via):
        def lane(level):
            return lax.cond(
                level > 0, lambda: flip(t[0], via) * level, lambda: (flip(t[1], via) - level) ** 2
            )

        return jax.vmap(lane)(jnp.asarray(LEVELS, t.dtype)).sum()

    def exact(world, t):
        return sum(world.flip(t[0]) * u if u > 0 else (world.flip(t[1]) - u) ** 2 for u in LEVELS)


@case((0.3, 0.8), DISCRETE)
class BranchOfAVmappedCondOnASite:
    def program(t, via):
        def lane(x):
            return lax.cond(x > 0.5, jnp.sin, lambda u: u**2 + t[1], x + t[1])

        return jax.vmap(lane)(plate(t[0], via)).sum()

    def exact(world, t):
        u = exact_plate(world, t[0]) + t[1]
        return np.where(u - t[1] > 0.5, np.sin(u), u**2 + t[1]).sum()


@case((0.3, 0.8), DISCRETE)
class EventAxesAreNoLanes:
    def program(t, via):
        z = pick(
            jnp.stack([t[0] * jnp.asarray(LEVELS, t.dtype), t[1] * jnp.asarray(LEVELS, t.dtype)]),
            via,
        )
        return jnp.exp(jax.nn.one_hot(z, 3) @ jnp.asarray(LEVELS, t.dtype)).sum()

    def exact(world, t):
        return sum(np.exp(LEVELS[world.categorical(softmax(u * LEVELS))]) for u in t)


@case((0.2, 0.7), DISCRETE, mixed=True)
class NativeBatchOfAPlateOfLogits:
    """L[i, k] = h(x_k): the second leaf axis is that of the categories, not that of x's lanes."""

    def program(t, via):
        xs = plate(t[0], em.Score())
        logits = jnp.asarray(LEVELS, t.dtype)[:, None] * xs * t[1]
        return 4 * (jnp.asarray(LEVELS, t.dtype)[pick(logits, via)] ** 2).sum()

    def exact(world, t):
        xs = exact_plate(world, t[0])
        return 4 * sum(LEVELS[world.categorical(softmax(u * xs * t[1]))] ** 2 for u in LEVELS)


@case((0.3,), DISCRETE, mixed=True)
class ADetachedSiteIsNoConstantCoefficient:
    def program(t, via):
        x, y = flip(t[0], em.Score()), flip(0.2 + 0.5 * t[0], via)
        return em.detach(x) * jnp.exp(y)

    def exact(world, t):
        return world.flip(world.theta[0]) * np.exp(world.flip(0.2 + 0.5 * t[0]))


@case((0.3,), DISCRETE, mixed=True)
class ADetachedParentOfALiveSite:
    def program(t, via):
        x = em.detach(flip(t[0], em.Score()))
        return jnp.exp(flip(0.2 + 0.3 * t[0] + 0.4 * x, via) - x)

    def exact(world, t):
        x = world.flip(world.theta[0])
        return np.exp(world.flip(0.2 + 0.3 * t[0] + 0.4 * x) - x)


@case((0.4,), (em.Pathwise,))
class LiveAndDetachedInOneTermOfAPathwiseSite:
    def program(t, via):
        x = normal(t[0], 1.0, via)
        return lax.stop_gradient(x) * x

    def exact(world, t):
        noise = world.normal(0.0, 1.0)
        return (world.theta[0] + noise) * (t[0] + noise)


@case((0.3, 0.5), DISCRETE)
class RunningSumsOfAScan:
    """Step t reaches all later costs: crediting it with its own gives 11.0 for 39.0."""

    def program(t, via):
        def step(total, _):
            total = total + flip(t[0], via)
            return total, total**2

        return lax.scan(step, 0 * t[0], None, length=5)[1].sum()

    def exact(world, t):
        return (np.cumsum([world.flip(t[0]) for _ in range(5)]) ** 2).sum()


@case((0.3, 0.5), DISCRETE)
class TwoScansInOppositeDirections:
    def program(t, via):
        def step(total, x):
            total = total + x
            return total, total * t[1]

        xs = lax.map(lambda w: flip(jax.nn.sigmoid(t[0] + w), via), jnp.asarray(LEVELS, t.dtype))
        _, forward = lax.scan(step, 0 * t[0], xs)
        _, both = lax.scan(step, 0 * t[0], forward, reverse=True)
        return (both**2).sum()

    def exact(world, t):
        xs = exact_plate(world, t[0])
        return ((np.cumsum((np.cumsum(xs) * t[1])[::-1]) * t[1]) ** 2).sum()


@case((0.3, 0.5), DISCRETE)
class AlignedAndMixedTermsOfOnePlate:
    """One lifting for both: all lanes on one axis is right for neither."""

    def program(t, via):
        xs = plate(t[0], via)
        return (jnp.exp(xs) * t[1]).sum() + xs.sum() ** 2

    def exact(world, t):
        xs = exact_plate(world, t[0])
        return (np.exp(xs) * t[1]).sum() + xs.sum() ** 2


@case((0.3, 0.5), DISCRETE)
class LanesOfSizeOneThatAreBroadcast:
    def program(t, via):
        xs = plate(t[0], via)
        y = jax.vmap(lambda _: flip(t[1], via))(jnp.arange(1))
        return jnp.sin(xs + 2 * y).sum()

    def exact(world, t):
        xs, y = exact_plate(world, t[0]), world.flip(t[1])
        return np.sin(xs + 2 * y).sum()


@case((0.3, 0.5), DISCRETE, mixed=True)
class LaterSitesShareTheirNoiseAcrossPoints:
    def program(t, via):
        x = flip(t[0], via)
        y = normal(jnp.exp(x) * t[1], 1.0, em.Pathwise())
        return jax.nn.logsumexp(jnp.stack([y, x])) * 2

    def exact(world, t):
        x = world.flip(t[0])
        return np.logaddexp(world.normal(np.exp(x) * t[1], 1.0), x) * 2


SHUFFLES = {
    "roll": (lambda x: jnp.roll(x, 1), lambda x: np.roll(x, 1)),
    "permutation": (lambda x: x[jnp.array([2, 0, 1])], lambda x: x[[2, 0, 1]]),
    "cumsum": (jnp.cumsum, np.cumsum),
    "sort": (jnp.sort, np.sort),
}


def shuffled(shuffle):
    class Shuffled:
        def program(t, via):
            ys = jax.vmap(lambda x: flip(jax.nn.sigmoid(t[1] * x - 1), via))(
                shuffle[0](plate(t[0], em.Score()))
            )
            return (ys * jnp.asarray(LEVELS, t.dtype)).sum() * 3

        def exact(world, t):
            xs = shuffle[1](exact_plate(world, t[0]))
            return (
                sum(world.flip(sigmoid(t[1] * x - 1)) * u for x, u in zip(xs, LEVELS, strict=True))
                * 3
            )

    return Shuffled


for name, shuffle in SHUFFLES.items():
    ATTACKS.case((0.3, 0.9), DISCRETE, mixed=True)(type(name, (shuffled(shuffle),), {}))


@case((0.3, 0.5), DISCRETE)
class CoefficientsThatDependOnParameters:
    def program(t, via):
        x, y = flip(t[0] * t[1], via), flip(t[1], via)
        return jnp.sin(t[0]) * x + t[1] ** 2 * y + t[0] * (x * y)

    def exact(world, t):
        x, y = world.flip(t[0] * t[1]), world.flip(t[1])
        return np.sin(t[0]) * x + t[1] ** 2 * y + t[0] * (x * y)


@case((0.3, 0.5), DISCRETE)
class DroppedOutputs:
    def program(t, via):
        def step(total, w):
            x = flip(jax.nn.sigmoid(t[0] + w), via)
            return total + x * t[1], (x, total)

        return jnp.exp(lax.scan(step, 0 * t[0], jnp.asarray(LEVELS, t.dtype))[0])

    def exact(world, t):
        return np.exp(exact_plate(world, t[0]).sum() * t[1])
