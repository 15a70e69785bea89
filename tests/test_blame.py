"""`find_nonfinite` names the first NaN or infinity of an estimate: a site before an operation."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em

KEY, NAN, INF = jax.random.key(0), jnp.nan, jnp.inf


@em.gen
def model(rate):
    x = em.sample("x", dist.Normal(0.0, 1.0))
    em.sample("y", dist.Exponential(rate).expand([2]))
    return x


def elbo(t, rate, y):
    @em.gen
    def guide():
        em.sample("x", dist.Normal(t, 1.0))

    q = guide.simulate()
    return model.log_density(em.merge(q.choices, {"y": y}), rate) - q.log_density


def in_a_scan(t):
    def step(total, u):
        return total + em.sample("z", dist.Normal(u, 1.0)), None

    return lax.scan(step, t, jnp.array([0.0, NAN]))[0]


GOOD = jnp.array([0.5, 0.7])
BLAMED = {
    "nothing": (elbo, (0.3, 1.0, GOOD), "every value and gradient is finite"),
    "a parameter": (elbo, (NAN, 1.0, GOOD), "site 'guide/x' (LINE): its parameter 'loc' is NaN"),
    "an observation": (
        elbo,
        (0.3, 1.0, jnp.array([0.5, NAN])),
        "site 'model/y' (LINE): the value it scores is NaN in 1 of 2 entries",
    ),
    "an observation outside of the support": (
        elbo,
        (0.3, 1.0, jnp.array([-1.0, 0.5])),
        "site 'model/y' (LINE): its log density is infinite in 1 of 2 entries",
    ),
    "a parameter of an observation": (
        elbo,
        (0.3, NAN, GOOD),
        "site 'model/y' (LINE): its log density is NaN in 2 of 2 entries",
    ),
    "a draw": (
        lambda t: em.draw(dist.Normal(0.0, INF * t)),
        (1.0,),
        "site 'draw 0' (LINE): its parameter 'scale' is infinite",
    ),
    "an argument that no site sees": (
        lambda t, data: (data["ys"] * em.draw(dist.Normal(t, 1.0))).sum(),
        (1.0, {"xs": GOOD, "ys": jnp.array([1.0, NAN])}),
        "argument [1]['ys'] is NaN in 1 of 2 entries",
    ),
    "an operation": (
        lambda t: jnp.log(t) * em.draw(dist.Normal(0.0, 1.0)),
        (-1.0,),
        "the result of log (LINE) is NaN",
    ),
    "a loop": (in_a_scan, (0.3,), "scan (LINE), which holds site 'z': its result is NaN"),
    "a gradient alone": (
        lambda t: jnp.sqrt(t) + em.draw(dist.Normal(0.0, 1.0)),
        (0.0,),
        "every value is finite, but the gradient in the leaf given is not",
    ),
}


@pytest.mark.parametrize("program, args, said", BLAMED.values(), ids=BLAMED)
def test_the_first_that_is_not_finite_is_named(program, args, said):
    found = em.expectation(program).find_nonfinite(KEY, *args)
    assert re.sub(r"test_blame\.py:\d+", "LINE", found) == said


def test_a_sample_among_many_is_found():
    @em.expectation
    def rare(t):
        return t * jnp.log(em.draw(dist.Normal(1.0, 1.0)))

    values = [rare.estimate(key, 1.0) for key in jax.random.split(KEY, 16)]
    assert 0 < np.isnan(values).sum() < 16
    assert rare.find_nonfinite(KEY, 1.0, num_samples=16).startswith("the result of log")
