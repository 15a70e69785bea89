"""Cases: categorical choices, alone and in lanes."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax

import estimand as em
from tests.cases.table import Table, flip, pick
from tests.oracle import sigmoid, softmax

CASES = Table()
case = CASES.case
T = (0.4, 1.2, -0.5, 0.1)
REWARD = np.array([1.0, -2.0, 4.0, 0.5])
LEVELS = np.array([-0.5, 0.2, 0.9])


def reward(t):
    return jnp.asarray(REWARD, t.dtype)


@case(T)
class OneChoice:
    def program(t, via):
        k = pick(t, via)
        return 10 + reward(t)[k] * t[k]

    def exact(world, t):
        k = world.categorical(softmax(t))
        return 10 + REWARD[k] * t[k]


@case((0.4, 1.2, 0.5, 0.1))
class UnnormalisedProbabilities:
    def program(t, via):
        return reward(t)[em.draw(dist.Categorical(probs=t), via=via)]

    def exact(world, t):
        return REWARD[world.categorical(t / t.sum())]


@case(T)
class LanesApart:
    def program(t, via):
        def lane(level):
            return (reward(t)[pick(t * level, via)] - level) ** 2

        return jax.vmap(lane)(jnp.asarray(LEVELS, t.dtype)).sum()

    def exact(world, t):
        level = world.choose(LEVELS, np.ones(3))
        return (REWARD[world.categorical(softmax(t * level))] - level) ** 2


@case(T)
class LanesThatMeet:
    def program(t, via):
        ks = jax.vmap(lambda level: pick(t * level, via))(jnp.asarray(LEVELS, t.dtype))
        return jnp.exp(0.2 * reward(t)[ks].sum()) * (1 + ks[1].astype(t.dtype))

    def exact(world, t):
        ks = [world.categorical(softmax(t * level)) for level in LEVELS]
        return np.exp(0.2 * REWARD[ks].sum()) * (1 + ks[1])


@case(T)
class SomeLanesMeet:
    def program(t, via):
        ks = em.draw(dist.Categorical(logits=t).expand([3, 2]), via=via)
        return jnp.exp(0.2 * reward(t)[ks].sum(axis=1)).sum()

    def exact(world, t):
        ks = [world.categorical(softmax(t)) for _ in range(2)]
        return 3 * np.exp(0.2 * REWARD[ks].sum())


@case(T)
class AfterAFlipAndBeforeANormal:
    def program(t, via):
        z = flip(jax.nn.sigmoid(t[0]), em.Enumerate())
        k = pick(t * (1 + z), via)
        return jnp.sin(em.draw(dist.Normal(t[k] + z, 0.5), via=em.Pathwise())) * reward(t)[k]

    def exact(world, t):
        z = world.flip(sigmoid(t[0]))
        k = world.categorical(softmax(t * (1 + z)))
        return np.sin(world.normal(t[k] + z, 0.5)) * REWARD[k]


@case(T)
class AScanOfChoices:
    def program(t, via):
        def step(k, _):
            k = pick(t * (1 + k.astype(t.dtype)), via)
            return k, reward(t)[k]

        k, rewards = lax.scan(step, jnp.zeros((), jnp.result_type(int)), None, length=3)
        return rewards.sum() ** 2 / 10

    def exact(world, t):
        k, total = 0, 0.0
        for _ in range(3):
            k = world.categorical(softmax(t * (1 + k)))
            total += REWARD[k]
        return total**2 / 10
