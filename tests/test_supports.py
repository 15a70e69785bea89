"""What a given value that lies outside of a support, or on its edge, is worth."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import estimand as em
from tests.generative import LEVELS

pytestmark = pytest.mark.legs
UNIT = dist.Uniform(0.0, 1.0)
OUTSIDE = {
    "Exponential": (dist.Exponential(1.0), -1.0),
    "LogNormal": (dist.LogNormal(0.0, 1.0), -1.0),
    "Uniform": (UNIT, 2.0),
    "one of two": (UNIT.expand([2]).to_event(1), jnp.array([0.5, 2.0])),
    "transformed Uniform": (
        dist.TransformedDistribution(UNIT, dist.transforms.AffineTransform(0.0, 2.0)),
        3.0,
    ),
    "TruncatedNormal": (dist.TruncatedNormal(0.0, 1.0, low=-1.0, high=1.0), 7.0),
    "Bernoulli probs": (dist.Bernoulli(probs=0.3), 2),
    "Bernoulli logits": (dist.Bernoulli(logits=0.3), -1),
    "Categorical": (dist.Categorical(logits=LEVELS), 3),
    "Categorical, negative": (dist.Categorical(probs=jnp.ones(3) / 3), -1),
    "DiscreteUniform": (dist.DiscreteUniform(0, 3), 7),
    "Binomial": (dist.Binomial(3, 0.5), 4),
    "Poisson": (dist.Poisson(2.0), -1),
    "Beta": (dist.Beta(2.0, 3.0), 1.5),
    "Multinomial": (dist.Multinomial(3, jnp.ones(2) / 2), jnp.array([9, 9])),
}


@pytest.mark.parametrize("law, value", OUTSIDE.values(), ids=OUTSIDE)
def test_data_outside_of_the_support_have_no_density(law, value):
    """Also where they are traced, as the arguments of an objective are."""

    @em.expectation
    def objective(t, value):
        density = em.gen(lambda: em.sample("y", law)).log_density({"y": value})
        return em.draw(dist.Normal(t, 1.0)) + density

    assert objective.estimate(jax.random.key(0), 0.0, value) == -jnp.inf


EDGES = {
    "two ends": lambda: dist.TruncatedNormal(0.3, 1.0, low=-0.1, high=0.7),
    "one end": lambda: dist.TruncatedNormal(0.3, 1.0, low=0.29),
    "Uniform": lambda: dist.Uniform(0.1, 0.7),
    "vector": lambda: dist.Uniform(0.1, jnp.array([0.3, 0.7])).to_event(1),
}


@pytest.mark.parametrize("make", EDGES.values(), ids=EDGES)
def test_a_draw_on_the_edge_of_its_support_keeps_its_density(make):
    model = em.gen(lambda: em.sample("x", make()))
    support = getattr(make().support, "base_constraint", make().support)
    for name in ("lower_bound", "upper_bound"):
        end = getattr(support, name, jnp.array(0.5, jnp.result_type(float)))
        edge = jnp.broadcast_to(jnp.asarray(end), make().shape())
        for value in (edge, jnp.nextafter(edge, -jnp.inf), jnp.nextafter(edge, jnp.inf)):
            assert jnp.isfinite(jax.jit(model.log_density)({"x": value}))


def test_what_a_mask_hides_may_be_outside_of_the_support():
    masked = em.gen(lambda: em.sample("y", dist.Exponential(1.0).mask(jnp.array([True, False]))))
    assert jax.jit(masked.log_density)({"y": jnp.array([1.0, -1.0])}) == -1.0
