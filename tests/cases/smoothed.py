"""Cases: what is made of a value, smoothed by normal noise."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax
from scipy import special

import estimand as em
from tests.cases.table import Table, flip
from tests.oracle import sigmoid

CASES = Table()
case = CASES.case
T = (0.4, -0.7, 0.9)
SIGMA = 0.6
LEVELS = np.array([-0.5, 0.2, 0.9])


def delta(v, via, event_dim=0):
    return em.draw(dist.Delta(v, event_dim=event_dim), via=via)


def opaque(x):
    """A NumPy function that JAX cannot look into, of a vector."""

    def simulator(x):
        return np.asarray(np.abs(x.sum(axis=-1)) + x[..., 0] ** 2, x.dtype)

    shape = jax.ShapeDtypeStruct((), x.dtype)
    return jax.pure_callback(simulator, shape, x, vmap_method="expand_dims")


@case(T)
class OneNumber:
    def program(t, via):
        return jnp.exp(delta(t[0] * t[1], via)) * t[2]

    def exact(world, t):
        return np.exp(world.normal(t[0] * t[1], SIGMA)) * t[2]


@case(T)
class AJump:
    def program(t, via):
        return (delta(t[0], via) > 0.3).astype(t.dtype) + t[1]

    def exact(world, t):
        return special.ndtr((t[0] - 0.3) / SIGMA) + t[1]


@case(T[:2])
class ACallback:
    def program(t, via):
        return opaque(em.draw(dist.Delta(t).to_event(1), via=via))

    def exact(world, t):  # |N(m, s^2)| + N(t[0], sigma^2)^2
        m, s = t.sum(), np.sqrt(2) * SIGMA
        folded = s * np.sqrt(2 / np.pi) * np.exp(-((m / s) ** 2) / 2) + m * special.erf(
            m / s / 2**0.5
        )
        return folded + t[0] ** 2 + SIGMA**2


@case(T)
class LanesApart:
    def program(t, via):
        def lane(level):
            return jnp.cos(delta(t[0] * level + t[1], via) + level)

        return jax.vmap(lane)(jnp.asarray(LEVELS, t.dtype)).sum()

    def exact(world, t):
        level = world.choose(LEVELS, np.ones(3))
        return np.cos(world.normal(t[0] * level + t[1], SIGMA) + level)


@case(T)
class LanesThatMeet:
    def program(t, via):
        return jnp.exp(0.5 * delta(t, via).sum())

    def exact(world, t):
        return np.exp(0.5 * world.normal(t.sum(), np.sqrt(3) * SIGMA))


@case(T)
class VectorsInLanes:
    def program(t, via):
        xs = em.draw(dist.Delta(jnp.stack([t[:2], t[1:]]), event_dim=1).expand([2]), via=via)
        return (xs[:, 0] * xs[:, 1] + xs[:, 0]).sum()

    def exact(world, t):
        return t[0] * t[1] + t[1] * t[2] + t[0] + t[1]


@case(T)
class AfterAnEnumeratedFlip:
    def program(t, via):
        z = flip(jax.nn.sigmoid(t[0]), em.Enumerate())
        x = delta(t[1] * (1 + z), via)
        return em.draw(dist.Normal(x, 0.5), via=em.Pathwise()) ** 2 * (1 + z) + x

    def exact(world, t):
        z = world.flip(sigmoid(t[0]))
        x = world.normal(t[1] * (1 + z), SIGMA)
        return (x**2 + 0.25) * (1 + z) + x


@case(T)
class AfterAPathwiseDraw:
    def program(t, via):
        z = em.draw(dist.Normal(t[0], 0.5), via=em.Pathwise())
        return jnp.cos(delta(t[1] * z, via)) * z

    def exact(world, t):
        z = world.normal(t[0], 0.5)
        return np.cos(world.normal(t[1] * z, SIGMA)) * z


@case(T)
class AScan:
    def program(t, via):
        def step(x, _):
            x = jnp.sin(delta(0.5 * x + t[0], via))
            return x, x * t[1]

        return lax.scan(step, t[2], None, length=2)[1].sum()

    def exact(world, t):
        x = np.sin(world.normal(0.5 * t[2] + t[0], SIGMA))
        return (x + np.sin(world.normal(0.5 * x + t[0], SIGMA))) * t[1]
