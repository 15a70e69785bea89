"""Cases: sites in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax

import estimand as em
from tests.cases.table import DISCRETE, case, flip
from tests.oracle import sigmoid

WEIGHTS = np.array([0.5, -0.3, 0.8, 0.1])


@case((0.2, 0.4), DISCRETE)
class RunningSumInScan:
    def program(t, via):
        def step(total, weight):
            total = total + flip(jax.nn.sigmoid(t[0] + weight), via)
            return total, (total - t[1]) ** 2

        _, costs = lax.scan(step, jnp.zeros_like(t[0]), jnp.asarray(WEIGHTS, t.dtype))
        return costs.sum()

    def exact(world, t):
        state, total = 0.0, 0.0
        for weight in WEIGHTS:
            state += world.flip(sigmoid(t[0] + weight))
            total += (state - t[1]) ** 2
        return total


@case((0.2, 0.4), DISCRETE)
class LossInTheCarryOfAScan:
    def program(t, via):
        def step(carry, weight):
            state, loss = carry
            x = flip(jax.nn.sigmoid(t[0] + weight * state), via)
            state = 0.5 * state + x
            return (state, loss + (state - t[1]) ** 2), None

        start = (jnp.ones_like(t[0]), jnp.zeros_like(t[0]))
        (_, loss), _ = lax.scan(step, start, jnp.asarray(WEIGHTS, t.dtype))
        return loss

    def exact(world, t):
        state, loss = 1.0, 0.0
        for weight in WEIGHTS:
            state = 0.5 * state + world.flip(sigmoid(t[0] + weight * state))
            loss += (state - t[1]) ** 2
        return loss


@case((0.2, 0.4), DISCRETE)
class ReverseScanWithALossAtTheEnd:
    def program(t, via):
        def step(state, weight):
            x = flip(jax.nn.sigmoid(t[0] + weight), via)
            state = state * t[1] + x
            return state, x * state

        final, costs = lax.scan(
            step, jnp.ones_like(t[0]), jnp.asarray(WEIGHTS, t.dtype), reverse=True
        )
        return jnp.sin(final) + jnp.tanh(costs.sum())

    def exact(world, t):
        state, total = 1.0, 0.0
        for weight in WEIGHTS[::-1]:
            x = world.flip(sigmoid(t[0] + weight))
            state = state * t[1] + x
            total += x * state
        return np.sin(state) + np.tanh(total)


@case((0.2, 0.4), DISCRETE)
class IndependentStepsOfAMap:
    def program(t, via):
        costs = lax.map(
            lambda w: jnp.exp(t[1] * flip(jax.nn.sigmoid(t[0] + w), via)),
            jnp.asarray(WEIGHTS, t.dtype),
        )
        return costs.sum()

    def exact(world, t):
        return sum(np.exp(t[1] * world.flip(p)) for p in sigmoid(t[0] + WEIGHTS))


@case((0.2, 0.4), DISCRETE)
class ForiLoop:
    def program(t, via):
        def body(i, total):
            return total + flip(jax.nn.sigmoid(t[0] + 0.3 * i.astype(t.dtype)), via) * (
                1 + t[1] * total
            )

        return lax.fori_loop(0, 4, body, jnp.zeros_like(t[0]))

    def exact(world, t):
        total = 0.0
        for i in range(4):
            total += world.flip(sigmoid(t[0] + 0.3 * i)) * (1 + t[1] * total)
        return total


@case((0.2, 0.4), (em.Score,))
class WhileLoopOfRandomLength:
    def program(t, via):
        def body(carry):
            count, total, _ = carry
            x = flip(jax.nn.sigmoid(t[0] - 0.4 * total), via)
            return count + 1, total + x + 0.2, x

        def going(carry):
            return (carry[2] > 0.5) & (carry[0] < 5)

        start = (jnp.zeros((), int), jnp.zeros((), t.dtype), jnp.ones((), t.dtype))
        return (lax.while_loop(going, body, start)[1] - t[1]) ** 2

    def exact(world, t):
        count, total, x = 0, 0.0, 1.0
        while x > 0.5 and count < 5:
            x = world.flip(sigmoid(t[0] - 0.4 * total))
            count, total = count + 1, total + x + 0.2
        return (total - t[1]) ** 2


@case((0.2, 0.4), DISCRETE)
class ScanInsideVmap:
    def program(t, via):
        def lane(level):
            def step(state, weight):
                state = 0.5 * state + flip(jax.nn.sigmoid(level + weight * state), via)
                return state, state**2

            _, costs = lax.scan(step, t[1], jnp.asarray(WEIGHTS[:3], t.dtype))
            return costs.sum()

        return jax.vmap(lane)(jnp.stack([t[0], 2 * t[1]])).sum()

    def exact(world, t):
        total = 0.0
        for level in (t[0], 2 * t[1]):
            state = t[1]
            for weight in WEIGHTS[:3]:
                state = 0.5 * state + world.flip(sigmoid(level + weight * state))
                total += state**2
        return total


@case((0.2, 0.4), DISCRETE)
class VmapInsideScan:
    def program(t, via):
        def step(states, weight):
            xs = jax.vmap(lambda s: flip(jax.nn.sigmoid(t[0] + weight * s), via))(states)
            states = t[1] * states + xs
            return states, states[0] * states[1]

        _, costs = lax.scan(step, jnp.ones((2,), t.dtype), jnp.asarray(WEIGHTS[:3], t.dtype))
        return costs.sum()

    def exact(world, t):
        states, total = np.ones(2), 0.0
        for weight in WEIGHTS[:3]:
            xs = np.array([world.flip(sigmoid(t[0] + weight * s)) for s in states])
            states = t[1] * states + xs
            total += states[0] * states[1]
        return total


def countdown(step, level, dtype):
    """A loop of random length, at most three steps: `step(total)` is added until the level."""

    def body(carry):
        return carry[0] + 1, carry[1] + step(carry[1])

    def going(carry):
        return (carry[1] < level) & (carry[0] < 3)

    return lax.while_loop(going, body, (jnp.zeros((), int), jnp.zeros((), dtype)))[1]


def exact_countdown(step, level):
    count, total = 0, 0.0
    while total < level and count < 3:
        count, total = count + 1, total + step(total)
    return total


@case((0.2, 0.4), (em.Score,))
class LanesInAWhileLoop:
    def program(t, via):
        levels = jnp.asarray(WEIGHTS[:3], t.dtype)

        def step(total):
            xs = jax.vmap(lambda w: flip(jax.nn.sigmoid(t[0] + w - 0.1 * total), via))(levels)
            return xs.sum() + 0.1

        return (countdown(step, 2.0, t.dtype) - t[1]) ** 2

    def exact(world, t):
        def step(total):
            return sum(world.flip(sigmoid(t[0] + w - 0.1 * total)) for w in WEIGHTS[:3]) + 0.1

        return (exact_countdown(step, 2.0) - t[1]) ** 2


@case((0.2, 0.4), (em.Score,))
class VmapOfAWhileLoop:
    """JAX makes it one loop, in which the lanes that ended stay as they are."""

    def program(t, via):
        def lane(w):
            def step(total):
                return flip(jax.nn.sigmoid(t[0] + w - 0.3 * total), via) + 0.1

            return countdown(step, 1.0, t.dtype)

        return (jax.vmap(lane)(jnp.asarray(WEIGHTS[:2], t.dtype)) ** 2).sum() * t[1]

    def exact(world, t):
        def lane(w):
            return exact_countdown(
                lambda total: world.flip(sigmoid(t[0] + w - 0.3 * total)) + 0.1, 1.0
            )

        return sum(lane(w) ** 2 for w in WEIGHTS[:2]) * t[1]


@case((0.2, 0.4), (em.Score,))
class LanesOfAWhileLoopThatHaveEnded:
    """The body is undefined at the carry with which a lane ends: its rate would be negative."""

    def program(t, via):
        def lane(start):
            def body(x):
                rate = t[1] * jnp.sqrt(3.0 - x)
                return x + 1.0 + em.draw(dist.Poisson(rate), via=via).astype(t.dtype)

            return lax.while_loop(lambda x: x < 3.0, body, start)

        return (jax.vmap(lane)(jnp.array([0.5, 1.8, 4.0], t.dtype)) * t[0]).sum()

    def exact(world, t):
        total = 0.0
        for x in (0.5, 1.8, 4.0):
            while x < 3.0:
                x = x + 1.0 + world.poisson(t[1] * np.sqrt(3.0 - x), most=12)
            total += x * t[0]
        return total


@case((0.2, 0.4), (em.Score,))
class WhileLoopsInAScanInAWhileLoop:
    def program(t, via):
        def turn(total):
            def inner(carry, w):
                def step(part):
                    return flip(jax.nn.sigmoid(t[0] + w - 0.3 * part), via) + 0.6

                return carry + countdown(step, 1.0, t.dtype), None

            part = lax.scan(inner, jnp.zeros_like(total), jnp.asarray(WEIGHTS[:2], t.dtype))[0]
            return part * flip(jax.nn.sigmoid(0.1 * total), via) + 1.5

        return jnp.sin(countdown(turn, 3.0, t.dtype)) * t[1]

    def exact(world, t):
        def turn(total):
            part = sum(
                exact_countdown(
                    lambda part, w=w: world.flip(sigmoid(t[0] + w - 0.3 * part)) + 0.6, 1.0
                )
                for w in WEIGHTS[:2]
            )
            return part * world.flip(sigmoid(0.1 * total)) + 1.5

        return np.sin(exact_countdown(turn, 3.0)) * t[1]


@case((0.2, 0.4), DISCRETE)
class ScanOfNoSteps:
    def program(t, via):
        def step(state, w):
            x = flip(jax.nn.sigmoid(t[0] + w), via)
            return state + x, x

        total, xs = lax.scan(step, t[1], jnp.zeros(0, t.dtype))
        return flip(t[0], via) * total + xs.sum()

    def exact(world, t):
        return world.flip(t[0]) * t[1]
