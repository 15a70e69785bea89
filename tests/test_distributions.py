"""Every NumPyro distribution is a site: under `vmap` each lane is what the distribution gives
for its own parameter.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import estimand as em
from tests.numpyro_table import DISTRIBUTIONS, REFUSED, REPAIRED, WITHOUT_SAMPLE
from tests.statistics import assert_unbiased, draws

LANES = jnp.array([0.3, 0.7])
quickly = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(autouse=True)
def standard_promotion():
    """NumPyro's own constructors do not live under strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def plate(make):
    @em.gen
    def program(parameters):
        return jax.vmap(lambda a: em.sample("x", make(a)))(parameters)

    return program


THINNED = [  # every sixth by default, all of them under `-m full`
    pytest.param(make, id=name, marks=[pytest.mark.full] if i % 6 else [])
    for i, (name, make) in enumerate(DISTRIBUTIONS.items())
]


@pytest.mark.parametrize("make", THINNED)
def test_a_lane_is_drawn_and_scored_as_by_its_own_distribution(make):
    program = plate(make)

    @quickly
    def drawn_and_scored(key, parameters):
        choices = em.seed(program.simulate)(key, parameters).choices
        return choices["x"], program.assess(choices, parameters).log_densities["x"]

    @quickly
    def one_by_one(values, parameters):
        return jnp.stack([make(a).log_prob(x) for x, a in zip(values, parameters, strict=True)])

    values, terms = drawn_and_scored(jax.random.key(0), LANES)
    assert values.shape == (2, *make(LANES[0]).shape())
    assert all(np.all(make(a).support(x)) for x, a in zip(values, LANES, strict=True))
    np.testing.assert_allclose(terms, one_by_one(values, LANES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", WITHOUT_SAMPLE.values(), ids=WITHOUT_SAMPLE)
def test_what_cannot_be_drawn_can_be_assessed(make):
    values = jnp.ones((2, *make(0.5).shape()))
    np.testing.assert_allclose(plate(make).assess({"x": values}, LANES).log_density, 0.0)
    with pytest.raises(em.EstimandError, match=r"'program/x'"):
        em.seed(plate(make).simulate)(jax.random.key(0), LANES)


@pytest.mark.parametrize("make, cls, field", REFUSED.values(), ids=REFUSED)
def test_a_distribution_with_arrays_or_closures_among_its_statics_is_refused_by_field(
    make, cls, field
):
    with pytest.raises(em.EstimandError) as refusal:
        em.seed(plate(make).simulate)(jax.random.key(0), LANES)
    for piece in ("'x'", "test_distributions.py", cls, field):
        assert piece in str(refusal.value)


SCORED = {
    **{name: pytest.param(make, id=name) for name, make in REPAIRED.items()},
    **{
        name: pytest.param(make, id=name, marks=pytest.mark.full)
        for name, make in DISTRIBUTIONS.items()
    },
}


@pytest.mark.parametrize("make", SCORED.values())
def test_the_score_of_every_distribution_has_mean_zero(make):
    """E[d log p(x)] = 0, or scoring is refused: then the density is that of the draws, and its
    support stands still."""

    @em.expectation
    def constant(a):
        x = em.draw(make(a), via=em.Score())
        return 1.0 + 0.0 * jnp.sum(x.astype(float))

    try:
        samples = draws(constant, 2**14, jnp.array(0.6))
    except em.EstimandError as refusal:
        assert "support moves" in str(refusal) or "not that of its draws" in str(refusal)
    else:
        assert_unbiased(samples, (1.0, 0.0), min_bias=0.2)
