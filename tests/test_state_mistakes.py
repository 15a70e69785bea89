"""States that are another strategy's, and what is not finite in a state or a baseline."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import estimand as em
from tests.messages import check_message

KEY, SGD = jax.random.key(0), optax.sgd(1e-3)


def coin(via):
    @em.expectation
    def objective(p):
        return 10.0 * em.sample("x", dist.Bernoulli(p), via=via).astype(float) * p

    return objective


def learned(optimizer=None):
    options = {} if optimizer is None else {"optimizer": optimizer}
    return coin(em.Score(em.LearnedBaseline(**options)))


AVERAGE, ADAM, PLAIN = coin(em.Score(em.MovingAverage())), learned(), learned(optax.sgd(0.1))


def integers(state):
    return state._replace(learned=jax.tree.map(lambda x: x.astype(int), state.learned))


OTHERS = {
    "another optimizer": lambda: ADAM.grad(KEY, 0.3, state=PLAIN.init(KEY, 0.3)),
    "integers": lambda: AVERAGE.grad(KEY, 0.3, state=integers(AVERAGE.init(KEY, 0.3))),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_state_of_another_form_is_refused_at_its_site(name):
    def short():
        try:
            OTHERS[name]()
        except em.EstimandError as problem:
            raise em.EstimandError(re.sub(r"(int|float)\d+", r"\1", str(problem))) from None

    check_message(f"strategies: a state of {name}", short)


def test_states_that_differ_in_their_types_alone():
    """Two optimizers of one rule, whose states hold the same numbers in other tuples."""
    given = learned(optax.chain(optax.trace(0.9))).init(KEY, 0.3)
    with pytest.raises(em.EstimandError, match=r"'x' (?s:.*)ScaleByRms(?s:.*)got(?s:.*)Trace"):
        learned(optax.chain(optax.scale_by_rms())).grad(KEY, 0.3, state=given)


def fit(objective, p=0.3, steps=3, **more):
    return em.maximize(objective, p, SGD, key=KEY, steps=steps, progress=False, **more)


@pytest.mark.parametrize("first, then", [(ADAM, PLAIN), (PLAIN, ADAM), (AVERAGE, coin(None))])
def test_a_run_is_not_resumed_with_a_strategy_that_learns_otherwise(first, then):
    with pytest.raises(em.EstimandError, match="some of its strategies learn"):
        fit(then, resume=fit(first))


@dataclasses.dataclass(frozen=True)
class Explosive(em.MovingAverage):
    """An average whose optimizer is useless."""

    rate: float = 1e30

    @property
    def optimizer(self) -> Any:
        return optax.sgd(self.rate)


@pytest.mark.parametrize("rate", [1e30, float("nan")])
def test_training_stops_before_a_state_that_is_not_finite(rate):
    objective = coin(em.Score(Explosive(rate=rate)))
    with pytest.raises(em.NonFiniteError) as caught:
        fit(objective, steps=50)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(caught.value.fit.state))
    said = str(caught.value)
    assert re.search(
        r"site 'x' \(test_state_mistakes\.py:\d+\): every .* its new state is not f", said
    )
    assert "the new state.learned['x']" in said


def to_nan(x):
    return x * jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else x


class Undefined(em.Score):
    def control(self, law, values):
        return jnp.nan * super().control(law, values)


BAD = {
    "a state": (AVERAGE, lambda s: s._replace(learned={"x": jnp.nan}), "its state is not finite"),
    "an optimizer": (
        ADAM,
        lambda s: s._replace(opt_state=jax.tree.map(to_nan, s.opt_state)),
        "its state is not finite",
    ),
    "a baseline": (
        coin(Undefined(1.0)),
        None,
        "the baseline or control variate of its strategy is not finite",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_the_site_is_named_whose_baseline_is_not_finite(name):
    objective, change, said = BAD[name]
    state = None if change is None else change(objective.init(KEY, 0.3))
    found = objective.find_nonfinite(KEY, 0.3, state=state)
    assert re.sub(r"\(.*?\)", "LINE", found) == f"site 'x' LINE: {said}"


def test_a_sum_that_overflows_is_not_called_finite():
    def program(p):
        x = em.sample("x", dist.Bernoulli(p)).astype(float)
        huge = jnp.finfo(x.dtype).max
        return huge * (1 + 0 * x) + huge * (1 + 0 * x)

    assert "but their sum" in em.expectation(program).find_nonfinite(KEY, 0.3)


def test_logits_of_impossible_outcomes_do_no_harm_to_a_learned_baseline():
    @em.expectation
    def objective(t):
        logits = jnp.stack([t, 0 * t, -jnp.inf + 0 * t])
        via = em.Score(em.LearnedBaseline())
        return em.sample("x", dist.Categorical(logits=logits), via=via).astype(float)

    found = fit(objective, steps=10)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((found.params, found.state)))
