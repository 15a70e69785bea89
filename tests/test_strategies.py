"""Which strategy a site gets, what `explain` says of it, and that users may write their own."""

import dataclasses
import functools
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from tests.cases.table import flip
from tests.messages import check_message
from tests.statistics import assert_unbiased, draws, enough_draws, gradients

THETA = jnp.array([0.3, 0.6])


def plate(make, n):
    return lambda t: jax.vmap(lambda _: em.sample("x", make(t)))(jnp.arange(n)).astype(float)


def coin(t):
    return dist.Bernoulli(probs=t[0])


DEFAULTS = {
    "normal": (lambda t: em.sample("x", dist.Normal(t[0], 1.0)), "Pathwise"),
    "gamma": (lambda t: em.sample("x", dist.Gamma(t[0], 1.0)), "Pathwise"),
    "dirichlet": (lambda t: em.sample("x", dist.Dirichlet(t))[0], "Pathwise"),
    "von Mises": (lambda t: em.sample("x", dist.VonMises(t[0], 1.0)), "Score"),
    "flip": (lambda t: em.sample("x", coin(t)).astype(float), "Enumerate"),
    "categorical": (
        lambda t: em.sample("x", dist.Categorical(logits=t)).astype(float),
        "Enumerate",
    ),
    "binomial": (lambda t: em.sample("x", dist.Binomial(3, probs=t[0])).astype(float), "Enumerate"),
    "count": (lambda t: em.sample("x", dist.Poisson(t[0])).astype(float), "Score"),
    "large plate, apart": (lambda t: jnp.exp(plate(coin, 500)(t)).sum(), "Enumerate"),
    "large plate, mixed": (lambda t: jnp.exp(plate(coin, 500)(t).mean()), "Score"),
    "small plate, mixed": (lambda t: jnp.exp(plate(coin, 5)(t).mean()), "Enumerate"),
    "flip in a scan": (
        lambda t: lax.map(lambda p: em.sample("x", dist.Bernoulli(probs=p)).astype(float), t).sum(),
        "Score",
    ),
    "flip in a branch": (
        lambda t: lax.cond(t[0] > 0, lambda: em.sample("x", coin(t)).astype(float), lambda: t[1]),
        "Score",
    ),
}


@pytest.mark.parametrize("program, strategy", DEFAULTS.values(), ids=DEFAULTS)
def test_the_default_strategy_is_chosen_by_the_site_and_explained(program, strategy):
    explained = em.expectation(program).explain(THETA)
    (line,) = [line for line in explained.splitlines() if re.search(r"\bx\b", line)]
    assert re.search(rf"test_strategies\.py:\d+.*\b{strategy}\(.*default: ", line)


def test_explain_says_what_was_chosen_by_hand():
    objective = em.expectation(lambda t: em.sample("x", coin(t), via=em.Score()).astype(float))
    assert re.search(r"Score\(.*via", objective.explain(THETA))
    assert re.search(r"Enumerate\(.*using", objective.using({"x": em.Enumerate()}).explain(THETA))


@pytest.mark.parametrize("strategy", [em.Pathwise, em.Score, em.Enumerate, em.MeasureValued])
def test_a_strategy_is_a_frozen_value(strategy):
    assert strategy() == strategy() and hash(strategy()) == hash(strategy())
    assert isinstance(strategy(), em.Strategy) and strategy().order in (None, 1)
    assert eval(repr(strategy()), {strategy.__name__: strategy}) == strategy()
    with pytest.raises(dataclasses.FrozenInstanceError):
        strategy().order = 3


@dataclasses.dataclass(frozen=True)
class LeaveOneOut(em.Strategy):
    """Several draws, each scored against the mean of the others: a strategy of the user's own."""

    draws: int = 3

    def count(self, dist, joint):
        return self.draws

    def points(self, key, law):
        return lax.stop_gradient(jax.vmap(law.sample)(jax.random.split(key, self.draws)))

    def combine(self, law, values, f):
        others = (f.sum(axis=0) - f) / (self.draws - 1)
        log_prob = jax.vmap(law.log_prob)(values)
        score = log_prob - lax.stop_gradient(log_prob)
        return (f + score * lax.stop_gradient(f - others)).mean(axis=0)


def two_coins(via):
    def objective(t):
        x, y = flip(t[0], via), flip(t[1], em.Score())
        return jnp.exp(x * t[1]) + 20 * x + x * y

    return em.expectation(objective)


def test_a_strategy_of_the_users_own_is_unbiased():
    p, q = 0.3, 0.6
    value = 1 - p + p * np.exp(q) + 20 * p + p * q
    exact = value, np.array([np.exp(q) - 1 + 20 + q, p * np.exp(q) + p])
    assert_unbiased(enough_draws(two_coins(LeaveOneOut()), exact, 2.0, THETA), exact, 2.0)


def test_a_strategy_of_the_users_own_treats_lanes_apart():
    def objective(t):
        xs = jax.vmap(lambda p: flip(p, LeaveOneOut(4)))(jnp.full(20, t[0]))
        return (xs * t[1]).sum()

    exact = 20 * 0.3 * 0.6, np.array([20 * 0.6, 20 * 0.3])
    samples = draws(em.expectation(objective), 2**13, THETA)
    assert_unbiased(samples, exact, 0.5)
    one = gradients(em.expectation(lambda t: flip(t[0], LeaveOneOut(4)) * t[1]), 2**13, THETA)
    np.testing.assert_allclose(np.std(samples[1][:, 0]), np.sqrt(20) * np.std(one[:, 0]), rtol=0.05)


def test_a_control_variate_lowers_the_spread():
    assert np.std(gradients(two_coins(LeaveOneOut()), 2**12, THETA)[:, 0]) < 0.5 * np.std(
        gradients(two_coins(em.Score()), 2**12, THETA)[:, 0]
    )


def in_a_scan(via):
    def program(t):
        def step(total, _):
            return total + flip(t[0], via), None

        return lax.scan(step, t[1], None, length=3)[0]

    return em.expectation(program)


@dataclasses.dataclass(frozen=True)
class Curious(em.Score):
    """A score that asks the law for something else first."""

    ask: str = ""

    def combine(self, law, values, f):
        questions = {
            "": lambda: law.static(lambda d: d.batch_shape),
            "map": lambda: law.map(lambda d: d.mean),
            "sample": lambda: law.sample(jax.random.key(0)),
            "log_prob": lambda: law.log_prob(jnp.ones_like(values)),
        }
        questions[self.ask]()
        assert values.shape == (3,)  # the draws of all steps
        return super().combine(law, values, f)


@pytest.mark.parametrize("ask", ["map", "sample", "log_prob"])
def test_what_a_law_does_not_know_outside_of_a_loop_is_refused(ask):
    check_message(f"a law in a loop: {ask}", in_a_scan(Curious(ask=ask)).grad, *START)


def test_what_a_law_knows_outside_of_a_loop_is_right():
    exact = 3 * 0.3 + 0.6, np.array([3.0, 1.0])
    assert_unbiased(draws(in_a_scan(Curious()), 2**13, THETA), exact, 0.5)


START = (jax.random.key(0), THETA)


def test_leaves_are_in_the_same_order_in_every_process():
    """NumPyro's own order comes from a set, and so from the seed of Python's hashes."""
    program = (
        "import numpyro.distributions as d; from estimand.transforms.distributions import split;"
        "print(split(d.LeftTruncatedDistribution(d.StudentT(3.0, 0.5, 2.0), 0.1), '')[0].slots())"
    )
    run = functools.partial(
        subprocess.check_output, [sys.executable, "-W", "ignore", "-c", program]
    )
    orders = {run(env={**os.environ, "PYTHONHASHSEED": seed}) for seed in ("1", "2")}
    assert len(orders) == 1
