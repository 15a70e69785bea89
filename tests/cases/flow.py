"""Cases: sites in branches, and behind the calls that JAX makes opaque."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import estimand as em
from tests.cases.table import DISCRETE, case, flip, pick
from tests.oracle import sigmoid, softmax


@case((0.3, 0.6), DISCRETE, mixed=True, inside="cond")
class BranchOnASite:
    def program(t, via):
        x = flip(t[0], em.Score())
        return lax.cond(x > 0.5, lambda u: (u + flip(u, via)) ** 2, lambda u: u**3, t[1])

    def exact(world, t):
        return (t[1] + world.flip(t[1])) ** 2 if world.flip(t[0]) else t[1] ** 3


@case((0.3, 0.6), DISCRETE)
class BranchOnASiteUnderTest:
    def program(t, via):
        x = flip(t[0], via)
        return lax.cond(x > 0.5, lambda u: jnp.sin(3 * u), lambda u: u**3, t[1])

    def exact(world, t):
        return np.sin(3 * t[1]) if world.flip(t[0]) else t[1] ** 3


@case((0.3, 0.6), DISCRETE, inside="cond")
class BranchOnAParameter:
    def program(t, via):
        def taken(u):
            x = flip(u, via)
            return flip(jax.nn.sigmoid(x - u), via) * x + u * x

        return lax.cond(t[0] < 0.5, taken, lambda u: flip(u, via), t[1])

    def exact(world, t):
        x = world.flip(t[1])
        return world.flip(sigmoid(x - t[1])) * x + t[1] * x


@case((0.3, 0.6), DISCRETE)
class SwitchOfThree:
    def program(t, via):
        z = pick(jnp.stack([t[0], t[1], t[0] * t[1]]), via)
        return lax.switch(z, [lambda u: u**2, lambda u: 2 * jnp.cos(u), lambda u: -u], t[1] + 1)

    def exact(world, t):
        z = world.categorical(softmax([t[0], t[1], t[0] * t[1]]))
        u = t[1] + 1
        return (u**2, 2 * np.cos(u), -u)[z]


@case((0.3, 0.6), DISCRETE, mixed=True, inside="cond")
class SitesInsideASwitch:
    def program(t, via):
        z = pick(jnp.stack([t[0], t[1], t[0] * t[1]]), em.Score())
        branches = [
            lambda u: u * flip(u, via),
            lambda u: u**2,
            lambda u: (flip(1 - u, via) + u) ** 2,
        ]
        return 2 * lax.switch(z, branches, t[1])

    def exact(world, t):
        z = world.categorical(softmax([t[0], t[1], t[0] * t[1]]))
        if z == 1:
            return 2 * t[1] ** 2
        return 2 * (t[1] * world.flip(t[1]) if z == 0 else (world.flip(1 - t[1]) + t[1]) ** 2)


@case((0.3, 0.6), DISCRETE)
class InsideJit:
    def program(t, via):
        @jax.jit
        def inner(p, u):
            return u * flip(p, via) ** 2

        return jnp.exp(inner(t[0], t[1])) + inner(t[1], t[0])

    def exact(world, t):
        return np.exp(t[1] * world.flip(t[0])) + t[0] * world.flip(t[1])


@case((0.3, 0.6), DISCRETE)
class InsideCheckpoint:
    def program(t, via):
        @jax.checkpoint
        def inner(p, u):
            return jnp.sin(u + flip(p, via))

        return inner(t[0], t[1]) ** 2 + t[1] * inner(t[1], t[0])

    def exact(world, t):
        return np.sin(t[1] + world.flip(t[0])) ** 2 + t[1] * np.sin(t[0] + world.flip(t[1]))


@jax.custom_jvp
def tripled(x):
    """x**2 with three times its derivative: only the rule tells."""
    return x**2


tripled.defjvp(lambda primals, tangents: (primals[0] ** 2, 6 * primals[0] * tangents[0]))


@jax.custom_vjp
def reversed_sign(x):
    """x**2 with minus its derivative."""
    return x**2


reversed_sign.defvjp(lambda x: (x**2, x), lambda x, g: (-2 * x * g,))


@case((0.3, 0.6), DISCRETE)
class CustomRulesAfterASite:
    """The scores see the true values; the explicit dependence on t[1] sees the rules."""

    def program(t, via):
        x = flip(t[0], via)
        return (
            tripled(x + t[1])
            + reversed_sign(2 * x - t[1])
            + jax.nn.relu(x - t[1])
            + jnp.logaddexp(x, t[1])
        )

    def exact(world, t):
        x = world.flip(t[0])
        fixed = world.theta[1]
        first = (x + fixed) ** 2 + 6 * (x + fixed) * (t[1] - fixed)
        second = (2 * x - fixed) ** 2 + 2 * (2 * x - fixed) * (t[1] - fixed)
        return first + second + np.maximum(x - t[1], 0.0) + np.logaddexp(x, t[1])


@case((0.3, 0.6), DISCRETE, inside="cond")
class LoopInVmapInBranch:
    def program(t, via):
        def lane(level):
            def step(state, _):
                state = state + flip(jax.nn.sigmoid(level - state), via)
                return state, None

            return jax.jit(lambda s: lax.scan(step, s, None, length=2)[0])(t[1])

        def taken():
            return (jax.vmap(lane)(jnp.stack([t[0], -t[1]])) ** 2).sum()

        return lax.cond(t[0] > 0.0, taken, lambda: t[1])

    def exact(world, t):
        total = 0.0
        for level in (t[0], -t[1]):
            state = t[1]
            for _ in range(2):
                state += world.flip(sigmoid(level - state))
            total += state**2
        return total


@case((0.3, 0.6), (em.Score,), mixed=True)
class BaselineInABranchOnAnEnumeratedSite:
    """The control variate has the axes of the predicate too."""

    def program(t, via):
        xs = jax.vmap(lambda _: flip(t[0], em.Enumerate()))(jnp.arange(2))
        level = jax.nn.logsumexp(xs)
        z = pick(jnp.stack([level * t[1], t[0], t[1]]), em.Enumerate())

        def taken(u):
            x = flip(jax.nn.sigmoid(u), em.Score(baseline=0.7))
            return x * u + x

        return lax.cond(z > 0, taken, jnp.sin, level)

    def exact(world, t):
        level = np.logaddexp(world.flip(t[0]), world.flip(t[0]))
        if world.categorical(softmax([level * t[1], t[0], t[1]])) == 0:
            return np.sin(level)
        x = world.flip(sigmoid(level))
        return x * level + x
