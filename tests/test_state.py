"""Strategies that learn: their state, its training, and that no state biases an estimate."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from jax import lax

import estimand as em
from tests.marks import by_default
from tests.messages import check_message
from tests.statistics import assert_unbiased, keys

P = jnp.array([0.3, 0.6])
WEIGHTS = jnp.array([10.0, 20.0])
KEY = jax.random.key(0)
TRAINED = {
    "average": em.Score(em.MovingAverage(0.8)),
    "network": em.Score(em.LearnedBaseline()),
    "rebar": em.Rebar(optimizer=optax.adam(0.05)),
    "relax": em.Relax(),
}


def coins(via):
    """Two coins apart and together; each lane reaches its own price and the product."""

    @em.expectation
    def price(p):
        x = em.sample("x", dist.Bernoulli(p), via=via).astype(float)
        return jnp.sum(x * WEIGHTS[: len(x)]) + 5.0 * x[0] * x[-1]

    return price


EXACT = 10 * 0.3 + 20 * 0.6 + 5 * 0.18, np.array([10 + 5 * 0.6, 20 + 5 * 0.3])


def trained(objective, steps, *args, num_samples=1):
    def step(state, key):
        result, state = objective.value_and_grad(key, *args, state=state, num_samples=num_samples)
        return state, result

    return jax.jit(lambda state: lax.scan(step, state, keys(steps)))(objective.init(KEY, *args))


def spread(objective, state, *args):
    sample = jax.vmap(lambda key: objective.value_and_grad(key, *args, state=state)[0])
    samples = jax.jit(sample)(keys(2**13, seed=5))
    return float(samples[1].var(axis=0).sum()), samples


@pytest.mark.parametrize("name", by_default(list(TRAINED), "average", "relax"))
def test_a_trained_state_lowers_the_variance_and_biases_nothing(name):
    objective = coins(TRAINED[name])
    state, _ = trained(objective, 400, P, num_samples=4)
    before, _ = spread(objective, objective.init(KEY, P), P)
    after, samples = spread(objective, state, P)
    assert after < 0.9 * before
    assert_unbiased(samples, EXACT, 2.0)


def test_tuning_goes_through_sites_of_first_order():
    """The estimate is differentiated in the tuned parameters, the objective is not."""

    @em.expectation
    def objective(p):
        x = em.sample("x", dist.Bernoulli(p), via=em.DisArm()).astype(float)
        y = em.sample("y", dist.Bernoulli(0.5 * p * (1 + x)), via=em.Relax()).astype(float)
        return jnp.exp(x @ y) * jax.nn.relu(p[0] - 0.1)

    exact = objective.using({"x": em.Enumerate(), "y": em.Enumerate()}).value_and_grad(KEY, P)
    state, _ = trained(objective, 300, P)
    assert np.any(state.tuned["y"]["out"] != 0.0)
    assert_unbiased(spread(objective, state, P)[1], jax.tree.map(np.asarray, exact), 0.2)
    with pytest.raises(em.EstimandError, match="DisArm"):
        jax.hessian(lambda p: objective.surrogate(KEY, p, state=state))(P)


def test_a_moving_average_is_the_mean_of_what_the_lane_reaches():
    @em.expectation
    def price(p):
        x = em.sample("x", dist.Bernoulli(p), via=em.Score(em.MovingAverage(0.8))).astype(float)
        return 3.0 + 10.0 * x  # the lane reaches the second term alone

    state, (values, _) = trained(price, 7, 0.4)
    weights = 0.8 ** np.arange(6, -1, -1)
    reached = np.asarray(values) - 3.0
    np.testing.assert_allclose(state.learned["x"], weights @ reached / weights.sum(), rtol=1e-5)


def test_each_lane_and_step_has_its_own_average():
    def program(t):
        def step(total, weight):
            x = em.sample("x", dist.Bernoulli(t), via=em.Score(em.MovingAverage())).astype(float)
            return total + weight * x.sum(), None

        return lax.scan(step, 0.0, WEIGHTS)[0]

    state = em.expectation(program).init(KEY, P)
    assert state.learned["x"].shape == (2, 2)


def test_training_carries_the_state_and_resumes_bit_for_bit(tmp_path):
    objective = coins(em.Score(em.LearnedBaseline()))
    run = {"key": KEY, "progress": False}
    whole = em.maximize(objective, P, optax.sgd(1e-4), steps=20, **run)
    half = em.maximize(objective, P, optax.sgd(1e-4), steps=8, **run)
    em.save(tmp_path / "half", half)
    half = em.load(tmp_path / "half", half)
    rest = em.maximize(objective, P, optax.sgd(1e-4), steps=12, resume=half, **run)
    for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(rest.state), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(whole.state.learned))


def test_a_state_that_nobody_needs_is_empty():
    state = coins(em.Score()).init(KEY, P)
    assert not jax.tree.leaves(state)
    (value, _), again = coins(em.Score()).value_and_grad(KEY, P, state=state)
    assert again == state and value.shape == ()


@dataclasses.dataclass(frozen=True)
class Hindsight(em.Score):
    """A baseline that has seen the draw."""

    def control(self, law, values):
        log_density = law.log_density(values)
        ratio = jnp.exp(log_density - lax.stop_gradient(log_density))
        return 10.0 * values.astype(float) * (1.0 - ratio)


def test_a_baseline_that_has_seen_the_draw_is_caught():
    samples = spread(coins(Hindsight()), coins(Hindsight()).init(KEY, P), P)[1]
    with pytest.raises(AssertionError, match="the mean is"):
        assert_unbiased(samples, EXACT, 2.0)


def closing_over_the_draw(p):
    x = em.sample("x", dist.Bernoulli(p)).astype(float)
    via = em.Score(em.LearnedBaseline(lambda w, d: w * x, lambda key, d: 0.0))
    return em.sample("y", dist.Bernoulli(p), via=via).astype(float) * x


def holding_the_draw(p):
    x = em.sample("x", dist.Bernoulli(p)).astype(float)
    via = em.Score(
        em.LearnedBaseline(functools.partial(lambda x, w, d: w * x, x), lambda k, d: 0.0)
    )
    return em.sample("y", dist.Bernoulli(p), via=via).astype(float) * x


def in_a_while(p):
    def step(carry):
        x = em.draw(dist.Bernoulli(p), via=em.Score(em.MovingAverage()))
        return carry[0] + 1, carry[1] + x

    _, total = lax.while_loop(lambda carry: carry[0] + carry[1] < 4, step, (0, 0))
    return total.astype(float)


MISSHAPEN = em.Score(
    em.LearnedBaseline(lambda w, d: (w * jnp.ones(3)).astype(jnp.float32), lambda key, d: 0.0)
)


def test_a_closure_with_an_empty_cell_is_no_mistake():
    def baseline(params, dist):
        return params * later(dist)

    em.LearnedBaseline(baseline)

    def later(dist):
        return dist.probs


MISTAKES = {
    "no state": lambda: coins(TRAINED["average"]).grad(KEY, P),
    "no state for an estimate": lambda: coins(TRAINED["average"]).estimate(KEY, P),
    "a state of another objective": lambda: coins(TRAINED["average"]).grad(
        KEY, P, state=coins(em.Score()).init(KEY, P)
    ),
    "a state that is none": lambda: coins(em.Score()).grad(KEY, P, state={}),
    "a state of another size": lambda: coins(TRAINED["average"]).grad(
        KEY, P[:1], state=coins(TRAINED["average"]).init(KEY, P)
    ),
    "a baseline of another shape": lambda: coins(MISSHAPEN).grad(
        KEY, P, state=coins(MISSHAPEN).init(KEY, P)
    ),
    "a baseline that closes over a draw": lambda: em.expectation(closing_over_the_draw).grad(
        KEY, 0.3, state=em.expectation(closing_over_the_draw).init(KEY, 0.3)
    ),
    "a baseline that holds a draw": lambda: em.expectation(holding_the_draw).grad(
        KEY, 0.3, state=em.expectation(holding_the_draw).init(KEY, 0.3)
    ),
    "an average in a while": lambda: em.expectation(in_a_while).init(KEY, 0.3),
    "a decay of one": lambda: em.MovingAverage(1.0),
    "one draw to leave out": lambda: em.LeaveOneOut(1),
    "a decay that is a word": lambda: em.MovingAverage("a"),
    "a decay that is an array": lambda: em.MovingAverage(np.array(0.5)),
    "a constant that is no number": lambda: em.Score(float("nan")),
    "a constant that is a truth value": lambda: em.Score(True),
    "a number for a function": lambda: em.LearnedBaseline(3),
    "a number for an optimizer": lambda: em.Rebar(optimizer=3),
    "no optimizer": lambda: em.Relax(optimizer=None),
    "a network without units": lambda: em.Relax(hidden=-3),
    "a temperature of zero": lambda: em.Rebar(temperature=0.0),
    "a temperature of zero for Relax": lambda: em.Relax(temperature=0),
    "a temperature of zero for GumbelSoftmax": lambda: em.GumbelSoftmax(0.0, biased=True),
    "an infinite temperature": lambda: em.Rebar(float("inf")),
    "a temperature that is a truth value": lambda: em.Rebar(True),
    "GumbelSoftmax unasked": lambda: em.GumbelSoftmax(0.5),
    "StraightThrough unasked": lambda: em.StraightThrough(),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_with_a_strategy_is_told(name):
    check_message(f"strategies: {name}", MISTAKES[name])
