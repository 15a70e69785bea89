"""What relaxing does to a program's numbers: integers that wrap around, parameters of another
width than the default, derivatives of the second order, and lines of messages.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import estimand as em
from estimand.estimators.relaxation import noise
from tests.messages import check_message
from tests.statistics import assert_unbiased, enough, enough_draws

KEY = jax.random.key(0)
P = jnp.array([0.3, 0.6])
QUICKLY = {"xla_backend_optimization_level": 0}
RELAXED = (em.Rebar(), em.GumbelSoftmax(biased=True), em.StraightThrough(biased=True))
HUNDREDS = jnp.array([100, 100], jnp.int8)


def flips(p, via=None):
    return em.sample("x", dist.Bernoulli(p), via=via)


WRAPPING = {
    "a dot of bytes": lambda x: jnp.dot(x.astype(jnp.int8), HUNDREDS),
    "a sum as a byte": lambda x: (jnp.sum(x) * 100).astype(jnp.int8),
    "a sum in 16 bits": lambda x: jnp.sum(x, dtype=jnp.int16),
    "in a jit": lambda x: jax.jit(lambda y: (y * 300).astype(jnp.int16))(jnp.sum(x)),
}


@pytest.mark.parametrize("name", WRAPPING)
def test_integers_that_soon_wrap_around_are_refused(name):
    def program(p):
        return WRAPPING[name](flips(p)).astype(float)

    objective = em.expectation(program)
    for via in RELAXED:
        with pytest.raises(em.EstimandError, match=r"(?s)'x'.*wrap around.* \(test_relaxed"):
            objective.using({"x": via}).grad(KEY, P)


def test_what_is_said_of_integers_that_wrap_around():
    @em.expectation
    def objective(p):
        return (flips(p, em.Rebar()).astype(jnp.int8) @ HUNDREDS).astype(float)

    check_message("relaxed: integers that wrap around", objective.grad, KEY, P)


def test_integers_of_32_bits_are_taken():
    @em.expectation
    def objective(p):
        return (flips(p, em.Rebar()).astype(jnp.int32) @ jnp.array([100, 100], jnp.int32)).astype(
            float
        )

    exact = 90.0, np.full(2, 100.0)
    assert_unbiased(enough_draws(objective, exact, 5.0, P), exact, 5.0)


NAMED = {
    "clip": lambda x: jnp.clip(jnp.sum(x), 0, 1),
    "bincount": lambda x: jnp.bincount(x, length=2)[1],
}


@pytest.mark.parametrize("name", NAMED)
def test_the_line_of_what_is_inside_of_a_function_of_jax(name):
    def program(p):
        return NAMED[name](flips(p, em.Rebar())).astype(float)

    with pytest.raises(em.EstimandError, match=r"max \(test_relaxed_numbers\.py:\d+\)"):
        em.expectation(program).grad(KEY, P)


PRIOR = jnp.array([0.3, 0.8])


NARROW = jnp.float32 if jax.config.jax_enable_x64 else jnp.bfloat16
LAWS = {
    "logits": lambda t: dist.Bernoulli(logits=t),
    "probs": lambda t: dist.Bernoulli(t),
    "one-hot logits": lambda t: dist.Multinomial(1, logits=t),
    "one-hot probs": lambda t: dist.Multinomial(1, t / jnp.sum(t)),
}


def elbo(law, via):
    """An observed flip, that depends on two, with its own density."""

    @em.gen
    def guide(t):
        em.sample("x", LAWS[law](t), via=via)

    @em.gen
    def model(x):
        em.sample("y", dist.Bernoulli(jax.nn.sigmoid(x[0] - x[1])))

    @em.expectation
    def objective(t):
        q = guide.simulate(t)
        x = q.choices["x"].astype(float)
        prior = jnp.sum(x * jnp.log(PRIOR) + (1 - x) * jnp.log1p(-PRIOR))
        return prior + model.log_density({"y": 1}, x) - q.log_density.astype(float)

    return objective


@pytest.mark.parametrize("dtype", [NARROW, jnp.float16])
@pytest.mark.parametrize("law", LAWS)
def test_parameters_may_be_narrower_than_the_default(law, dtype):
    t = P.astype(dtype)
    for via in (*RELAXED, em.Relax()):
        objective = elbo(law, via)
        state = objective.init(KEY, t)
        (value, slope), _ = jax.eval_shape(objective.value_and_grad, KEY, t, state=state)
        assert value.dtype == jnp.result_type(float) and slope.dtype == dtype


@pytest.mark.parametrize("dtype", [NARROW, jnp.float16])
@pytest.mark.parametrize("via", RELAXED)
def test_a_narrow_value_used_as_it_is(via, dtype):
    @em.expectation
    def objective(p):
        return jnp.exp(0.5 * (2 * flips(p, via) - 1).astype(float))

    value, slope = jax.eval_shape(objective.value_and_grad, KEY, jnp.asarray(0.3, dtype))
    assert value.dtype == jnp.result_type(float) and slope.dtype == dtype


def test_the_noise_of_a_bfloat16_is_not_as_coarse():
    """With that of its own type the gradient is off by more than a half."""
    p = jnp.asarray(0.01, jnp.bfloat16)

    @em.expectation
    def objective(p):
        return jnp.exp(1.5 * flips(p, em.Rebar()).astype(float))

    sample = jax.jit(jax.vmap(objective.value_and_grad, (0, None)), compiler_options=QUICKLY)

    def sampler(keys):
        return jax.tree.map(lambda x: np.asarray(x, float), sample(keys, p))

    exact = 1 + float(p) * np.expm1(1.5), np.expm1(1.5)
    assert_unbiased(enough(sampler, exact, 1.5), exact, 1.5)


class _Twin(em.Rebar):
    """A strategy of a user's whose points have the type of the parameters."""

    def points(self, key, law):
        x, z, conditional = noise(key, law)
        return jnp.stack([x.astype(z.dtype), z, conditional]).astype(law.leaves[0].dtype)


def test_points_of_another_width_are_those_of_the_program():
    @em.expectation
    def objective(p):
        return jnp.exp(0.5 * flips(p, _Twin()).astype(float))

    assert jax.eval_shape(objective.grad, KEY, jnp.asarray(0.3, NARROW)).dtype == NARROW


@pytest.mark.full
@pytest.mark.parametrize("law", LAWS)
def test_a_bound_has_a_second_derivative(law):
    """The density of a flip has a maximum in it, but no kink."""
    objective = elbo(law, em.Rebar())
    squash = {"logits": jax.nn.sigmoid, "one-hot logits": jax.nn.softmax}.get(law, lambda t: t)
    points = (1.0, 0.0), (0.0, 1.0), *(() if "one-hot" in law else ((0.0, 0.0), (1.0, 1.0)))

    def mean(t):
        def term(x):
            p = squash(t) if "one-hot" not in law else squash(t) / jnp.sum(squash(t))
            q = x @ p if "one-hot" in law else jnp.prod(x * p + (1 - x) * (1 - p))
            prior = jnp.prod(x * PRIOR + (1 - x) * (1 - PRIOR))
            return q * (jnp.log(prior * jax.nn.sigmoid(x[0] - x[1])) - jnp.log(q))

        return sum(term(jnp.array(x)) for x in points)

    truth = jax.tree.map(np.asarray, (jax.grad(mean)(P), jax.hessian(mean)(P)))

    def sample(key):
        slope = jax.grad(lambda t: objective.surrogate(key, t))
        return slope(P), jax.jacfwd(slope)(P)

    sampler = jax.jit(jax.vmap(sample), compiler_options=QUICKLY)
    assert_unbiased(enough(sampler, truth, 1.0), truth, 1.0)


@pytest.mark.parametrize("law", LAWS)
def test_a_second_derivative_of_a_bound_is_not_refused(law):
    surrogate = elbo(law, em.Rebar()).surrogate
    assert jax.eval_shape(jax.hessian(surrogate, 1), KEY, P).shape == (2, 2)
