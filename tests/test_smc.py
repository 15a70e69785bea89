"""Marginals and posteriors by SMC: the laws of importance sampling, step by step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from tests.marks import by_default
from tests.messages import Programs, check_message
from tests.statistics import assert_unbiased, enough

KEY = jax.random.key(0)
MOVES = jnp.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
MEANS = jnp.array([-1.0, 0.5, 2.0])
START = jnp.array([0.2, 0.3, 0.5])
X = jnp.array([1.0, -1.0, 0.3, 2.0])
OBSERVED = {"x": X, "end": jnp.array(0.5)}


def program(reverse=False):
    """A chain whose first state is also used after it, so that the past must be resampled too."""

    @em.gen
    def chain(means):
        first = em.sample("first", dist.Categorical(START))

        def step(z, _):
            z = em.sample("z", dist.Categorical(MOVES[z]))
            em.sample("x", dist.Normal(means[z], 1.0))
            return z, z

        last, zs = lax.scan(step, first, None, length=len(X), reverse=reverse)
        em.sample("end", dist.Normal(means[last] + means[first] + 0.3 * means[zs[1]], 1.0))

    return chain


def paths(reverse=False):
    """All assignments of (first, z), and the log density of each with what is observed."""
    rows = jnp.array(list(itertools.product(range(3), repeat=1 + len(X))))
    chain = program(reverse)

    def terms(means):
        def density(z):
            return chain.log_density({"first": z[0], "z": z[1:], **OBSERVED}, means)

        return jax.vmap(density)(rows)

    return rows, terms


def evidence(means, reverse=False):
    return jax.nn.logsumexp(paths(reverse)[1](means))


METHODS = {
    "multinomial": em.SMC(10),
    "systematic": em.SMC(10, "systematic"),
    "now and then": em.SMC(10, threshold=0.5),
    "systematic, now and then": em.SMC(10, "systematic", 0.5),
    "never": em.SMC(10, threshold=0.0),
    "one particle": em.SMC(1),
}


CASES = [(name, reverse) for name in METHODS for reverse in (False, True)]
TURNS = [("multinomial", True), ("systematic, now and then", False), ("one particle", False)]


@pytest.mark.parametrize("name, reverse", by_default(CASES, *TURNS))
def test_the_evidence_is_unbiased(name, reverse):
    exact = evidence(MEANS, reverse)
    marginal = program(reverse).marginal(keep=("x", "end"), via=METHODS[name])

    def ratio(key):
        return jnp.exp(em.seed(marginal.log_density)(key, OBSERVED, MEANS) - exact)

    assert_unbiased(enough(jax.jit(jax.vmap(ratio)), 1.0, 0.1), 1.0, 0.1)


def density_of(x, end, means):
    """log p(x, end) by summing the last and the first state and the second step's out."""
    rows, _ = paths()

    def density(z):
        return program().log_density({"first": z[0], "z": z[1:], "x": x, "end": end}, means)

    return jax.nn.logsumexp(jax.vmap(density)(rows))


def test_the_reciprocal_is_unbiased_where_the_marginal_is_drawn():
    marginal = program().marginal(keep=("x", "end"), via=em.SMC(4))

    def off(key):
        trace = em.seed(marginal.simulate)(key, MEANS)
        x, end = trace.choices["x"], trace.choices["end"]
        ratio = jnp.exp(density_of(x, end, MEANS) - trace.log_density) - 1.0
        return jnp.stack([ratio, ratio * jnp.tanh(end), ratio * jnp.where(x[0] > 0, 1.0, 0.0)])

    samples = enough(jax.jit(jax.vmap(off)), np.zeros(3), 0.2, batch=2**11)
    assert_unbiased(samples, np.zeros(3), 0.2)


@pytest.mark.full
def test_a_posterior_path_has_the_right_law_in_the_limit():
    rows, terms = paths()
    p = np.exp(np.asarray(terms(MEANS) - evidence(MEANS), np.float64))
    posterior = program().normalize(OBSERVED, via=em.SMC(60))

    def draw(key):
        trace = em.seed(posterior.simulate)(key, MEANS)
        return jnp.concatenate([trace.choices["first"][None], trace.choices["z"]])

    n = 2_000
    drawn = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(KEY, n)))
    for k in range(drawn.shape[1]):
        for state in range(3):
            truth = p[np.asarray(rows)[:, k] == state].sum()
            assert abs((drawn[:, k] == state).mean() - truth) < 0.06
    trace = em.seed(posterior.simulate)(KEY, MEANS)
    again = em.seed(posterior.log_density)(jax.random.key(1), trace.choices, MEANS)
    joint = program().log_density({**trace.choices, **OBSERVED}, MEANS)
    assert abs(trace.log_density - (joint - evidence(MEANS))) < 1.0
    assert abs(again - (joint - evidence(MEANS))) < 1.0


def test_the_gradient_of_the_evidence_is_unbiased():
    @em.expectation
    def likelihood(means):
        marginal = program().marginal(keep=("x", "end"), via=em.SMC(3))
        return jnp.exp(marginal.log_density(OBSERVED, means) - evidence(MEANS))

    exact = jax.value_and_grad(lambda m: jnp.exp(evidence(m) - evidence(MEANS)))(MEANS)
    sampler = jax.jit(jax.vmap(lambda key: likelihood.value_and_grad(key, MEANS)))
    assert_unbiased(enough(sampler, exact, 0.3), exact, 0.3)


@pytest.mark.legs
def test_continuous_states_agree_with_the_kalman_filter():
    @em.gen
    def walk(scale):
        def step(z, _):
            z = em.sample("z", dist.Normal(0.9 * z, scale))
            em.sample("x", dist.Normal(z, 1.0))
            return z, None

        lax.scan(step, 0.0, None, length=len(X))

    def kalman(scale):
        mean, variance, total = 0.0, 0.0, 0.0
        for x in X:
            mean, variance = 0.9 * mean, 0.81 * variance + scale**2
            total += dist.Normal(mean, jnp.sqrt(variance + 1.0)).log_prob(x)
            gain = variance / (variance + 1.0)
            mean, variance = mean + gain * (x - mean), (1 - gain) * variance
        return total

    exact = jax.value_and_grad(lambda s: jnp.exp(kalman(s) - kalman(0.7)))(0.7)
    marginal = walk.marginal(keep="x", via=em.SMC(10))
    likelihood = em.expectation(lambda s: jnp.exp(marginal.log_density({"x": X}, s) - kalman(0.7)))
    sampler = jax.jit(jax.vmap(lambda key: likelihood.value_and_grad(key, 0.7)))
    assert_unbiased(enough(sampler, exact, 0.1), exact, 0.1)


BAD = Programs()


@BAD
def no_particles():
    em.SMC(0)


@BAD
def an_unknown_scheme():
    em.SMC(10, "residual")


@BAD
def a_threshold_over_one():
    em.SMC(10, threshold=3)


@BAD
def a_draw_by_systematic_resampling():
    marginal = program().marginal(keep=("x", "end"), via=em.SMC(4, "systematic"))
    em.seed(marginal.simulate)(KEY, MEANS)


@BAD
def a_derivative_through_systematic_resampling():
    marginal = program().marginal(keep=("x", "end"), via=em.SMC(4, "systematic"))
    em.expectation(lambda m: marginal.log_density(OBSERVED, m)).grad(KEY, MEANS)


@BAD
def a_derivative_through_a_threshold():
    marginal = program().marginal(keep=("x", "end"), via=em.SMC(4, threshold=0.5))
    em.expectation(lambda m: marginal.log_density(OBSERVED, m)).grad(KEY, MEANS)


@BAD.each()
def test_a_mistake_is_named(name, program):
    check_message(f"smc: {name}", program)
