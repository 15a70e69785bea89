"""`WithoutReplacement`: distinct outcomes of a categorical, weighted to stand for all."""

import itertools
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from estimand.estimators.without_replacement import _weights
from tests.cases.choices import CASES, T, reward
from tests.cases.table import pick
from tests.marks import by_default
from tests.messages import Programs, check_message, trace
from tests.statistics import assert_exact, assert_unbiased, draws, enough_draws, gradients, scale

fast = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def holds(strategy, case):
    objective, theta = case.objective(strategy), jnp.array(case.theta)
    min_bias = 0.1 * scale(case.answer)
    assert_unbiased(enough_draws(objective, case.answer, min_bias, theta), case.answer, min_bias)


@pytest.mark.legs
@pytest.mark.parametrize(
    "case", by_default(CASES, "OneChoice", "LanesApart", "AfterAFlipAndBeforeANormal")
)
def test_value_and_gradient_are_unbiased(case):
    holds(em.WithoutReplacement(2), case)


def test_three_at_a_time():
    holds(em.WithoutReplacement(3), CASES["LanesThatMeet"])


def chance(outcomes, p, taken=()):
    """The probability of drawing a set in any order, once some are taken away, by definition."""
    total = 0.0
    for order in itertools.permutations(outcomes):
        left, product = 1.0 - sum(p[i] for i in taken), 1.0
        for i in order:
            product, left = product * p[i] / left, left - p[i]
        total += product
    return total


def weights(p, subset):
    log_p, k = jnp.log(jnp.array(p)), len(subset)
    rest = jax.nn.logsumexp(jnp.delete(log_p, jnp.array(subset), assume_unique_indices=True))
    return map(np.asarray, jax.jit(_weights)(log_p[jnp.array(subset)], rest, jnp.ones(k, bool)))


@pytest.mark.parametrize("size, k", by_default([(5, 2), (6, 4)], (5, 2)))
def test_the_weights_are_those_of_the_definition_and_their_mean_is_p(size, k):
    p = np.random.default_rng(size).dirichlet(np.ones(size))
    mean, whole = np.zeros(size), 0.0
    for subset in itertools.combinations(range(size), k):
        own, others = weights(p, subset)
        drawn = chance(subset, p)
        for i, s in enumerate(subset):
            rest = [t for t in subset if t != s]
            ratio = chance(rest, p, (s,)) / drawn
            np.testing.assert_allclose(own[i], p[s] * ratio, rtol=1e-4)
            for j, t in enumerate(subset):
                two = chance([u for u in rest if u != t], p, (s, t)) / chance(rest, p, (s,))
                np.testing.assert_allclose(others[i, j], p[t] * (1 if s == t else two), rtol=1e-4)
        mean[list(subset)] += drawn * own
        whole += drawn
    np.testing.assert_allclose(whole, 1.0)
    np.testing.assert_allclose(mean, p, rtol=1e-4)


def test_weights_of_tiny_probabilities_are_finite_and_add_up():
    log_p = jnp.array([-1e-7, -200.0, -300.0, -300.0])
    own, others = jax.jit(_weights)(log_p[:3], log_p[3], jnp.ones(3, bool))
    np.testing.assert_allclose(own, [1.0, 0.0, 0.0], atol=1e-6)
    assert np.all(np.isfinite(others))


@pytest.mark.full
def test_second_derivatives_are_unbiased():
    objective = CASES["OneChoice"].objective(em.WithoutReplacement(2))
    exact = jax.hessian(lambda t: jnp.sum(jax.nn.softmax(t) * (10 + reward(t) * t)))
    keys, theta = jax.random.split(jax.random.key(0), 2**15), jnp.array(T)
    samples = fast(jax.vmap(jax.hessian(objective.surrogate, 1), (0, None)))(keys, theta)
    assert_unbiased(samples, exact(theta), 0.2)


@pytest.mark.parametrize("k", by_default([4, 7], 4))
def test_as_many_draws_as_outcomes_are_an_enumeration(k):
    case, theta = CASES["OneChoice"], jnp.array(T)
    assert_exact(draws(case.objective(em.WithoutReplacement(k)), 8, theta), case.answer)
    assert "4 evaluations" in case.objective(em.WithoutReplacement(k)).explain(theta)


@pytest.mark.parametrize("parameter, k", [("probs", 2), ("logits", 3)])
def test_outcomes_of_probability_zero_are_not_evaluated(parameter, k):
    """Two that are possible of four: all draws of three are an enumeration."""

    def objective(t):
        p = jnp.stack([0 * t, t, 0 * t, 1 - t])
        if parameter == "logits":
            never = jnp.full_like(t, -jnp.inf)
            p = jnp.stack([never, jnp.log(t), never, jnp.log(1 - t)])
        x = em.draw(dist.Categorical(**{parameter: p}), via=em.WithoutReplacement(k))
        x = x.astype(t.dtype)
        return jnp.log(x) / (x - 2)  # infinite at 0 and at 2

    exact = 0.7 * np.log(3), -np.log(3)
    assert_exact(draws(em.expectation(objective), 16, jnp.array(0.3)), exact)


def test_a_certain_outcome():
    def objective(t):
        k = em.draw(dist.Categorical(probs=jnp.array([0.0, 1.0, 0.0])), via=em.WithoutReplacement())
        return t * k.astype(t.dtype)

    assert_exact(draws(em.expectation(objective), 4, jnp.array(0.3)), (0.3, 1.0))


def test_a_single_outcome_also_in_a_long_loop():
    def objective(t):
        def step(total, _):
            k = em.draw(dist.Categorical(logits=t[:1]), via=em.WithoutReplacement())
            return total + t[k], None

        return lax.scan(step, step(t[1], None)[0], None, length=40)[0]

    exact = 41 * T[0] + T[1], np.array([41.0, 1.0, 0.0, 0.0])
    assert_exact(draws(em.expectation(objective), 4, jnp.array(T)), exact)


def test_no_lanes_at_all():
    def objective(t):
        ks = jax.vmap(lambda _: pick(t, em.WithoutReplacement()))(jnp.arange(0))
        return jnp.exp(t[ks].sum()) * t[0]

    exact = T[0], np.array([1.0, 0, 0, 0])
    assert_exact(draws(em.expectation(objective), 2, jnp.array(T)), exact)


@pytest.mark.full
def test_the_spread_is_below_that_of_as_many_independent_draws():
    """Of rewards that are large: of small ones of both signs, the baseline is no help."""

    def spread(strategy):
        objective = em.expectation(lambda t: (10 + reward(t))[pick(t, strategy)])
        return np.linalg.norm(np.std(gradients(objective, 2**13, jnp.array(T)), axis=0))

    without = spread(em.WithoutReplacement(3))
    assert without < 0.7 * spread(em.LeaveOneOut(3)) and without < 0.7 * spread(Bare(3))


@dataclass(frozen=True)
class Bare(em.WithoutReplacement):
    """Without the baseline."""

    def combine(self, law, values, f):
        return super().combine(law, values, f) + _baseline_of(law, values, lax.stop_gradient(f))


def _baseline_of(law, values, f):
    """What the baseline subtracts: the difference to f's own surrogate, f times the ratio."""
    log_p = jax.vmap(law.log_prob)(values)
    ratio = jnp.exp(log_p - lax.stop_gradient(log_p)).astype(f.dtype)
    rest = jnp.log(jnp.maximum(1 - jnp.exp(lax.stop_gradient(log_p)).sum(axis=0), 1e-30))
    own, others = _weights(lax.stop_gradient(log_p), rest, jnp.ones(log_p.shape, bool))
    return jnp.sum(own * (others * f).sum(axis=1) * (ratio - 1), axis=0)


@dataclass(frozen=True)
class AllAlike(em.WithoutReplacement):
    """A broken twin: the distinct draws are weighted as if they were independent."""

    def combine(self, law, values, f):
        log_p = jax.vmap(law.log_prob)(values)
        return jnp.mean(f * jnp.exp(log_p - lax.stop_gradient(log_p)), axis=0)


@dataclass(frozen=True)
class OwnBaseline(em.WithoutReplacement):
    """A broken twin: the baseline of all draws, each one's own f with its full weight."""

    def combine(self, law, values, f):
        return super().combine(law, values, f - lax.stop_gradient(super().combine(law, values, f)))


@pytest.mark.parametrize("strategy", [AllAlike(), OwnBaseline()])
def test_broken_twins_are_seen(strategy):
    with pytest.raises(AssertionError, match="the exact answer"):
        holds(strategy, CASES["OneChoice"])


def test_the_same_without_the_baseline_is_unbiased():
    holds(Bare(2), CASES["OneChoice"])


refused = Programs()


@refused
def a_distribution_that_is_not_categorical(t):
    return em.draw(dist.Bernoulli(logits=t[0]), via=em.WithoutReplacement()).astype(float)


@refused
def a_single_draw(t):
    em.WithoutReplacement(1)


@refused
def more_subsets_than_it_goes_through(t):
    em.WithoutReplacement(9)


@refused
def a_choice_in_a_branch(t):
    return lax.cond(t[1] > 0, lambda: t[pick(t, em.WithoutReplacement())], lambda: t[0])


@refused
def too_many_outcomes_of_lanes_that_meet(t):
    ks = em.draw(dist.Categorical(logits=t).expand([20]), via=em.WithoutReplacement())
    return jnp.exp(t[ks].sum())


@refused.each()
def test_what_it_cannot_do_is_refused(name, program):
    check_message(f"without replacement: {name}", trace, program)
