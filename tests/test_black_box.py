"""`BlackBox`: unbiased for the objective smoothed by normal noise."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from jax import lax

import estimand as em
from tests.cases.smoothed import CASES, SIGMA, T, delta, opaque
from tests.messages import Programs, check_message, trace
from tests.statistics import assert_exact, assert_unbiased, draws, enough_draws, gradients, scale

fast = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def holds(via, case):
    objective, theta, exact = case.objective(via), jnp.array(case.theta), case.answer
    min_bias = 0.1 * scale(exact)
    assert_unbiased(enough_draws(objective, exact, min_bias, theta), exact, min_bias)


@pytest.mark.legs
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_value_and_gradient_are_unbiased_for_the_smoothed_objective(case):
    holds(em.BlackBox(SIGMA, n=2), case)


def second_derivatives(case, via):
    keys, theta = jax.random.split(jax.random.key(0), 2**15), jnp.array(case.theta)
    return fast(jax.vmap(jax.hessian(case.objective(via).surrogate, 1), (0, None)))(keys, theta)


@pytest.mark.full
def test_second_derivatives_are_unbiased():
    def exact(t):
        return jnp.exp(0.5 * t.sum() + 3 * SIGMA**2 / 8)

    samples = second_derivatives(CASES["LanesThatMeet"], em.BlackBox(SIGMA, n=8))
    assert_unbiased(samples, jax.hessian(exact)(jnp.array(T)), 0.2)


def fourth_power(t):
    return delta(t, em.BlackBox(0.5, n=2)) ** 4


def test_it_is_off_from_the_objective_itself_by_its_curvature():
    v, s = 1.2, 0.5
    smoothed = v**4 + 6 * v**2 * s**2 + 3 * s**4, 4 * v**3 + 12 * v * s**2
    samples = enough_draws(em.expectation(fourth_power), smoothed, 0.3, jnp.array(v))
    assert_unbiased(samples, smoothed, 0.3)
    with pytest.raises(AssertionError, match="the exact answer"):
        assert_unbiased(samples, (v**4, 4 * v**3), 0.3)
    value, gap = float(np.mean(samples[0])), 0.5 * s**2 * 12 * v**2  # sigma^2 / 2 f''
    np.testing.assert_allclose(value - v**4, gap, rtol=0.15)  # and 3 sigma^4


def test_explain_says_so():
    explained = em.expectation(fourth_power).explain(jnp.array(1.0))
    assert "BlackBox(sigma=0.5, n=2" in explained and "4 evaluations" in explained
    assert "sigma^2/2 tr(Hessian)" in explained


@dataclass(frozen=True)
class OneSided(em.BlackBox):
    """A broken twin: no pairs, and the score of one sign for both."""

    def _noise(self, key, v):
        return jnp.abs(super()._noise(key, v))


@dataclass(frozen=True)
class HalfTheScore(em.BlackBox):
    """A broken twin, of a wrong scale."""

    def _ratio(self, law, v, u):
        return super()._ratio(law, v, u / 2)


@pytest.mark.parametrize("via", [OneSided(SIGMA, n=2), HalfTheScore(SIGMA, n=2)])
def test_broken_twins_are_seen(via):
    with pytest.raises(AssertionError, match="the exact answer"):
        holds(via, CASES["LanesThatMeet"])


# The control variate.

G = np.array([2.0, -1.0, 0.5])


def linear(via, meet=True):
    def objective(t):
        x = delta(t, via) if meet else jax.vmap(lambda v: delta(v, via))(t)
        g = jnp.asarray(G, t.dtype)
        return jnp.minimum((x * g).sum(), 1e9) if meet else ((x * g) + 0 * x**2).sum()

    return em.expectation(objective)


def estimates(objective, theta, state, n=2**12):
    keys = jax.random.split(jax.random.key(0), n)
    one = lambda key: objective.value_and_grad(key, theta, state=state)[0]  # noqa: E731
    return fast(jax.vmap(one))(keys)


def with_slope(objective, theta, slope):
    state = objective.init(jax.random.key(0), theta)
    slopes = jax.tree.map(
        lambda x: jnp.broadcast_to(jnp.asarray(slope, x.dtype), x.shape), state.learned
    )
    return state._replace(learned=slopes)


def test_the_spread_of_what_is_linear_is_as_derived_and_vanishes_at_its_slope():
    theta, n, d = jnp.array(T), 4, len(G)
    plain = gradients(linear(em.BlackBox(SIGMA, n)), 2**13, theta)
    np.testing.assert_allclose(np.var(plain, axis=0).sum(), (d + 1) * (G**2).sum() / n, rtol=0.1)
    objective = linear(em.BlackBox(SIGMA, n, decay=0.9))
    exact = float(G @ np.array(T)), G
    values, grads = estimates(objective, theta, with_slope(objective, theta, G))
    assert_exact(grads, exact[1])
    _, grads = estimates(objective, theta, with_slope(objective, theta, G + 1.0))
    np.testing.assert_allclose(np.var(grads, axis=0).sum(), (d + 1) * d / n, rtol=0.1)


SOME = {"LanesThatMeet"}
SLOW = [pytest.param(name, marks=pytest.mark.full) for name in sorted(set(CASES) - SOME)]


@pytest.mark.parametrize("name", [*sorted(SOME), *SLOW])
def test_with_any_slope_it_is_unbiased(name):
    case, theta = CASES[name], jnp.array(CASES[name].theta)
    objective = case.objective(em.BlackBox(SIGMA, n=4, decay=0.5))
    state = with_slope(objective, theta, 1.5)
    samples = estimates(objective, theta, state, 2**15)
    assert_unbiased(samples, case.answer, 0.15 * scale(case.answer))


@pytest.mark.full
def test_with_any_slope_second_derivatives_are_unbiased():
    case, theta = CASES["LanesThatMeet"], jnp.array(T)
    objective = case.objective(em.BlackBox(SIGMA, n=8, decay=0.5))
    state = with_slope(objective, theta, 1.5)
    hessian = jax.hessian(lambda t, key: objective.surrogate(key, t, state=state))
    samples = fast(jax.vmap(hessian, (None, 0)))(theta, jax.random.split(jax.random.key(0), 2**15))
    exact = jax.hessian(lambda t: jnp.exp(0.5 * t.sum() + 3 * SIGMA**2 / 8))(theta)
    assert_unbiased(samples, exact, 0.2)


@dataclass(frozen=True)
class NotAddedBack(em.BlackBox):
    """A broken twin: what the control variate takes away in the mean is not added back."""

    def control(self, law, values):
        v = law.sample(law.key)
        a = lax.stop_gradient(law.state.astype(v.dtype))
        return super().control(law, values) - a * (v - lax.stop_gradient(v))


def test_a_control_variate_with_a_mean_is_seen():
    objective, theta = linear(NotAddedBack(SIGMA, n=4, decay=0.5), meet=False), jnp.array(T)
    samples = estimates(objective, theta, with_slope(objective, theta, 1.5))
    with pytest.raises(AssertionError, match="the exact answer"):
        assert_unbiased(samples, (float(G @ np.array(T)), G), 0.5)


@pytest.mark.parametrize("meet", [True, False])
def test_the_slope_is_the_running_average_of_the_estimates(meet):
    objective, theta = linear(em.BlackBox(SIGMA, 4, decay=0.9), meet), jnp.array(T)
    state = objective.init(jax.random.key(0), theta)
    slope = np.zeros(3)
    for i in range(3):
        key = jax.random.key(i)
        without = fast(linear(em.BlackBox(SIGMA, 4), meet).grad)(key, theta)
        _, state = fast(objective.grad)(key, theta, state=state)
        slope = 0.9 * slope + 0.1 * np.asarray(without)
        np.testing.assert_allclose(state.learned["draw 0"], slope, rtol=1e-4)


def test_training_by_a_callback():
    def objective(t):
        return opaque(delta(t - 1.0, em.BlackBox(0.05, 4, decay=0.9), event_dim=1))

    fit = em.minimize(
        em.expectation(objective), jnp.zeros(2), optax.adam(0.05), key=jax.random.key(0),
        steps=200, progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(fit.params, [1.0, 1.0], atol=0.1)


# In a generative function; bad input.


@em.gen
def model():
    em.sample("x", dist.Normal(1.0, 0.5))


def by_map(scored):
    @em.gen
    def guide(v):
        em.sample("x", dist.Delta(v), via=em.BlackBox(0.1, n=4))

    def objective(t):
        q = guide.simulate(t[0])
        return model.log_density(q.choices) - (q.log_density if scored else 0.0)

    return objective


def test_a_guide_whose_own_density_is_not_read():
    normal = dist.Normal(1.0, 0.5)
    exact = float(normal.log_prob(0.3)) - 0.5 * 0.1**2 / 0.5**2, np.array([0.7 / 0.25, 0.0])
    assert_unbiased(draws(em.expectation(by_map(False)), 2**13, jnp.array([0.3, 0.0])), exact, 0.3)


def test_the_log_density_argument_does_not_matter():
    def objective(t):
        x = em.draw(dist.Delta(t[0], log_density=t[1]), via=em.BlackBox(0.1, n=4))
        return 3 * x

    samples = draws(em.expectation(objective), 2**12, jnp.array(T))
    assert_unbiased(samples, (3 * T[0], np.array([3.0, 0.0, 0.0])), 0.3)


@pytest.mark.parametrize("decay", [None, 0.5])
def test_no_lanes_at_all(decay):
    def program(t):
        xs = jax.vmap(lambda v: delta(v, em.BlackBox(1.0, 2, decay)))(t[:0])
        return jnp.exp(xs.sum()) * t[0]

    objective, theta = em.expectation(program), jnp.array(T)
    state = None if decay is None else objective.init(jax.random.key(0), theta)
    result = objective.value_and_grad(jax.random.key(0), theta, state=state)
    value, grad = result if decay is None else result[0]
    assert_exact((value[None], grad[None]), (T[0], np.array([1.0, 0.0, 0.0])))


def fit(simulator, steps=5):
    def objective(t):
        x = em.sample("x", dist.Delta(t), via=em.BlackBox(0.1))
        shape = jax.ShapeDtypeStruct((), x.dtype)
        return jax.pure_callback(simulator, shape, x, vmap_method="sequential")

    return em.maximize(
        em.expectation(objective), jnp.array(0.3), optax.sgd(0.1), key=jax.random.key(0),
        steps=steps, progress=False,
    )  # fmt: skip


def test_an_error_in_a_callback_is_the_users_own():
    def simulator(x):
        raise RuntimeError("the simulator has no licence")

    with pytest.raises(Exception, match="the simulator has no licence") as caught:
        fit(simulator)
    assert "in simulator" in str(caught.value)


def test_a_callback_that_returns_nan_stops_training_and_is_named():
    check_message("black box: a callback that returns NaN", fit, lambda x: np.full_like(x, np.nan))


def test_a_scale_that_is_traced_is_refused():
    with pytest.raises(em.EstimandError, match="sigma a positive Python number"):
        jax.eval_shape(em.BlackBox, jnp.array(0.1))


refused = Programs()


@refused
def a_scale_of_zero(t):
    em.BlackBox(0.0)


@refused
def no_pairs(t):
    em.BlackBox(0.1, n=0)


@refused
def a_decay_of_one(t):
    em.BlackBox(0.1, decay=1.0)


@refused
def a_distribution_that_is_no_delta(t):
    return em.draw(dist.Normal(t[0], 1.0), via=em.BlackBox(0.1))


@refused
def an_integer(t):
    return t[0] * delta(3, em.BlackBox(0.1)).astype(t.dtype)


@refused
def its_own_density(t):
    return by_map(True)(t)


@refused
def a_delta_in_a_branch(t):
    return lax.cond(t[1] > 0, lambda: delta(t[0], em.BlackBox(0.1)), lambda: t[0])


@refused
def a_callback_of_an_argument_as_well(t):
    return opaque(delta(t, em.BlackBox(0.1), event_dim=1) * t)


@refused.each()
def test_what_it_cannot_do_is_refused(name, program):
    check_message(f"black box: {name}", trace, program)
