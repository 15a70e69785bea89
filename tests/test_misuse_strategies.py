"""What is said of strategies that are given to the wrong thing, or return it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import estimand as em
from tests.messages import THETA, Programs, check_message

KEY = jax.random.key(0)
refused = Programs()


@dataclasses.dataclass(frozen=True)
class Whole(em.Score):
    """A score whose surrogate is cut off to integers, and with it its derivative."""

    def combine(self, law, values, f):
        return super().combine(law, values, f).astype(jnp.int32)


@em.expectation
def flips(p):
    return jnp.sum(em.sample("x", dist.Bernoulli(p)).astype(float))


@refused
def a_surrogate_of_integers():
    flips.using({"x": Whole()}).grad(KEY, THETA)


@refused
def a_site_named_by_its_number():
    flips.using({0: em.Score()})


def simulator(x):
    return np.asarray(3.0 * np.sum(x), x.dtype)


def reward(method, wrap=lambda f: f):
    @em.expectation
    def objective(v):
        x = em.sample("x", dist.Delta(v, event_dim=1), via=em.BlackBox(0.1))
        shape = jax.ShapeDtypeStruct((), x.dtype)
        return wrap(lambda x: jax.pure_callback(simulator, shape, x, vmap_method=method))(x)

    return objective


@refused
def a_callback_without_a_vmap_method():
    reward(None).grad(KEY, THETA)


def in_a_scan(f):
    return lambda x: jax.lax.scan(lambda c, _: (c + f(x), None), 0 * x[0], length=2)[0]


def test_a_callback_in_a_loop_is_found_and_one_with_a_method_is_taken():
    with pytest.raises(em.EstimandError, match=r"'x' .*(?s:.*)vmap_method=\"sequential\""):
        reward(None, in_a_scan).grad(KEY, THETA)
    assert np.all(np.isfinite(reward("sequential").grad(KEY, THETA)))


def test_a_callback_of_a_single_point_needs_none():
    @em.expectation
    def objective(p):
        x = em.sample("x", dist.Bernoulli(p), via=em.Score()).astype(float)
        return jax.pure_callback(simulator, jax.ShapeDtypeStruct((), x.dtype), x)

    assert np.all(np.isfinite(objective.grad(KEY, THETA)))


@refused
def an_expanded_distribution():
    law = dist.Bernoulli(0.3).expand([3])
    em.expectation(lambda t: jnp.sum(em.sample("x", law, via=em.DisArm()) * t[0])).explain(THETA)


WRAPPED = {
    "expand": lambda p: dist.Bernoulli(p[0]).expand([2]),
    "to_event": lambda p: dist.Bernoulli(p).to_event(1),
    "both": lambda p: dist.Bernoulli(p[0]).expand([2]).to_event(1),
}


@pytest.mark.parametrize("via", [em.DisArm(), em.MeasureValued(), em.Rebar(), em.Relax()])
@pytest.mark.parametrize("name", WRAPPED)
def test_what_to_do_about_expand_and_to_event(name, via):
    def program(p, make):
        return jnp.sum(em.sample("x", make(p), via=via).astype(float))

    with pytest.raises(em.EstimandError, match="leave out expand.* and give its parameters the f"):
        em.expectation(program).explain(THETA, WRAPPED[name])
    em.expectation(program).explain(THETA, dist.Bernoulli)  # which is what the message says


def test_that_is_not_said_where_it_would_not_help():
    def program(p):
        return jnp.sum(em.sample("x", dist.Poisson(p).to_event(1), via=em.DisArm()).astype(float))

    with pytest.raises(em.EstimandError, match="it is made for Bernoulli\n"):
        em.expectation(program).explain(THETA)


@refused.each()
def test_it_is_refused(name, program):
    with jax.numpy_dtype_promotion("standard"):
        check_message(name, program)
