"""Strategies that look between a site's values: what they take, what they refuse, and which are
biased.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import estimand as em
from tests.marks import by_default
from tests.messages import check_message
from tests.statistics import assert_unbiased, enough_draws

KEY = jax.random.key(0)
T = jnp.array([0.3, -0.4, 0.6])
PRICES = jnp.array([1.0, 2.0, 4.0])


def one_hot(via):
    @em.expectation
    def price(t):
        x = em.draw(dist.Multinomial(1, jax.nn.softmax(t)), via=via).astype(float)
        return (x @ PRICES.astype(t.dtype) - 0.5 * x[0]) ** 2 + t[1] * x[2]

    return price


def exact_one_hot(t):
    return jax.nn.softmax(t) @ jnp.stack([0.25 + 0 * t[0], 4.0 + 0 * t[0], 16.0 + t[1]])


def elbo(model, guide):
    def objective(t):
        q = guide.simulate(t)
        return model.log_density(em.merge(q.choices, {"y": 1.5})) - q.log_density

    return em.expectation(objective)


def two_layers(via):
    """A vector of flips, the logits of a second, and a density of both."""

    @em.gen
    def guide(t):
        a = em.sample("a", dist.Bernoulli(logits=t), via=via).astype(float)
        em.sample("b", dist.Bernoulli(logits=jnp.sum(a) * t[0]), via=via)

    @em.gen
    def model():
        a = em.sample("a", dist.Bernoulli(jnp.full(3, 0.4))).astype(float)
        b = em.sample("b", dist.Bernoulli(jax.nn.sigmoid(a[0] - a[1]))).astype(float)
        em.sample("y", dist.Normal(jnp.sum(a) + b, 1.0))

    return elbo(model, guide)


def scored(via):
    """A one-hot choice and its densities, by a guide and by a model."""

    @em.gen
    def guide(t):
        em.sample("a", dist.Multinomial(1, jax.nn.softmax(t)), via=via)

    @em.gen
    def model():
        a = em.sample("a", dist.Multinomial(1, jnp.array([0.2, 0.3, 0.5]))).astype(float)
        em.sample("y", dist.Normal(a @ PRICES.astype(a.dtype), 1.0))

    return elbo(model, guide)


def exact_scored(t):
    q = jax.nn.softmax(t)
    likelihood = -0.5 * (1.5 - PRICES.astype(t.dtype)) ** 2 - 0.5 * jnp.log(2 * jnp.pi)
    return q @ (jnp.log(jnp.array([0.2, 0.3, 0.5], t.dtype)) + likelihood - jnp.log(q))


def exact_two_layers(t):
    return two_layers(em.Enumerate()).estimate(KEY, t)


PROGRAMS = {
    "one-hot": (one_hot, exact_one_hot),
    "two layers": (two_layers, exact_two_layers),
    "scored": (scored, exact_scored),
}


def answer(name):
    return jax.tree.map(np.asarray, jax.value_and_grad(PROGRAMS[name][1])(T))


RUNS = [(name, temperature) for name in PROGRAMS for temperature in (0.1, 0.5, 3.0)]


@pytest.mark.parametrize(
    "name, temperature", by_default(RUNS, ("one-hot", 3.0), ("two layers", 0.5), ("scored", 0.1))
)
def test_rebar_is_unbiased_at_every_temperature(name, temperature):
    objective = PROGRAMS[name][0](em.Rebar(temperature))
    assert_unbiased(enough_draws(objective, answer(name), 0.5, T), answer(name), 0.5)


BIASED = {
    (name, type(via).__name__): (name, via)
    for name in PROGRAMS
    for via in (em.GumbelSoftmax(biased=True), em.StraightThrough(biased=True))
}


@pytest.mark.parametrize(
    "name, via", by_default(BIASED, ("one-hot", "GumbelSoftmax"), ("scored", "StraightThrough"))
)
def test_what_is_biased_says_so_and_is_seen_to_be(name, via):
    objective = PROGRAMS[name][0](via)
    assert "BIASED" in objective.explain(T)
    min_bias = 0.2 if name == "one-hot" else 0.05
    samples = enough_draws(objective, answer(name), min_bias, T)
    with pytest.raises(AssertionError, match="the mean is"):
        assert_unbiased(samples, answer(name), min_bias)


def test_a_gumbel_softmax_is_unbiased_for_the_relaxed_program():
    """A linear program is its own relaxation at a symmetric point."""

    @em.expectation
    def linear(logit):
        return em.draw(dist.Bernoulli(logits=logit), via=em.GumbelSoftmax(biased=True)).astype(
            float
        )

    exact = 0.5, None
    samples = enough_draws(linear, (0.5, np.mean(_slopes())), 0.02, 0.0)
    assert_unbiased(samples, (exact[0], np.mean(_slopes())), 0.02)


def _slopes(n=20_001):
    """d/dlogit of sigmoid((logit + logit(u)) / 0.5) at 0, at the midpoints of [0, 1]."""
    u = (np.arange(n) + 0.5) / n
    s = 1 / (1 + np.exp(-np.log(u / (1 - u)) / 0.5))
    return s * (1 - s) / 0.5


def coin(t, via):
    return em.sample("x", dist.Bernoulli(logits=t[0]), via=via)


REFUSED = {
    "compared": lambda t: jnp.where(coin(t, em.Rebar()) == 1, t[1], t[2]),
    "an index": lambda t: t[coin(t, em.Rebar())],
    "a branch": lambda t: jax.lax.switch(coin(t, em.Rebar()), [lambda: t[1], lambda: t[2]]),
    "a jump of the number": lambda t: jnp.floor(coin(t, em.Rebar()) * 1.5),
    "a site in a cond": lambda t: jax.lax.cond(
        t[0] > 0, lambda: coin(t, em.Rebar()).astype(float), lambda: t[1]
    ),
    "an index of three": lambda t: (
        em.sample("x", dist.Categorical(logits=t), via=em.Rebar()) * t[0]
    ),
    "a count": lambda t: em.sample("x", dist.Binomial(3, logits=t[0]), via=em.Rebar()) * t[0],
    "two balls": lambda t: (
        em.sample("x", dist.Multinomial(2, jax.nn.softmax(t)), via=em.Rebar()) @ t
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_value_in_between_is_refused(name):
    with jax.numpy_dtype_promotion("standard"):
        check_message(f"relaxed: {name}", em.expectation(REFUSED[name]).grad, KEY, T)


ARITHMETIC = {
    "a multiple": lambda x: 2 * x,
    "one less": lambda x: 1 - x,
    "in a jit": lambda x: jax.jit(lambda y: y + 1)(x),
    "in a vmap": lambda x: jax.vmap(lambda y: y * 3 - 1)(x),
    "padded": lambda x: jnp.pad(x, 1)[1:-1],
    "another integer": lambda x: x * jnp.arange(3),
}


@pytest.mark.parametrize("name", by_default(list(ARITHMETIC), "in a vmap", "another integer"))
def test_integers_may_be_calculated_with(name):
    @em.expectation
    def objective(t):
        x = ARITHMETIC[name](em.draw(dist.Bernoulli(logits=t), via=em.Rebar()))
        return jnp.sum(x.astype(float) * t + 1.0) ** 2

    exact = objective.using({"draw 0": em.Enumerate()}).value_and_grad(KEY, T)
    exact = jax.tree.map(np.asarray, exact)
    assert_unbiased(enough_draws(objective, exact, 1.0, T), exact, 1.0)


def scored_by(d):
    @em.gen
    def model():
        em.sample("k", d)

    return lambda t: model.log_density({"k": em.draw(dist.Bernoulli(logits=t[0]), via=em.Rebar())})


SMOOTH = {
    "Poisson": dist.Poisson(2.0),
    "Binomial": dist.Binomial(3, 0.4),
    "BetaBinomial": dist.BetaBinomial(1.0, 2.0, total_count=3),
}


@pytest.mark.parametrize("d", by_default(SMOOTH, "Binomial"))
def test_a_density_of_the_value_is_extended(d):
    objective = em.expectation(scored_by(d))
    exact = objective.using({"draw 0": em.Enumerate()}).value_and_grad(KEY, T)
    exact = jax.tree.map(np.asarray, exact)
    assert_unbiased(enough_draws(objective, exact, 0.05, T), exact, 0.05)


@pytest.mark.parametrize(
    "name, d",
    {
        "a density that selects": dist.ZeroInflatedPoisson(0.3, 2.0),
        "a density that looks up": dist.Categorical(jnp.array([0.2, 0.8])),
    }.items(),
)
def test_a_density_that_jumps_between_the_values_is_refused(name, d):
    check_message(f"relaxed: {name}", em.expectation(scored_by(d)).grad, KEY, T)


def test_training_the_temperature_is_a_state():
    objective = one_hot(em.Rebar(optimizer=optax.adam(0.1)))
    fit = em.maximize(objective, T, optax.sgd(0.0), key=KEY, steps=50, progress=False)
    tuned = fit.state.tuned["draw 0"]
    assert tuned["log_temperature"] != jnp.log(0.5) and tuned["eta"] != 1.0
