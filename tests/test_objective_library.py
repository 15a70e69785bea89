"""The objectives of the library: value and gradient against closed forms of normals, or against
all outcomes of a discrete guide's particles. A twin that is broken fails the same test.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import estimand as em
from estimand.transforms.weights import log_mean_exp
from tests.cases.objectives import (
    BROKEN,
    DISCRETE,
    NORMAL,
    OUTCOMES,
    D,
    T,
    chosen,
    guide,
    joint,
    log_choice,
    mixed,
    model,
    normal,
)
from tests.messages import check_message
from tests.statistics import assert_exact, assert_unbiased, enough_draws

KEY = jax.random.key(0)
BIAS = 0.1
SCORED = ("iwelbo", "wake theta", "wake phi", "renyi 2.0")


def value_and_grad(exact, t):
    return jax.tree.map(np.asarray, jax.value_and_grad(exact)(t))


def check(objective, exact, t, **using):
    answer = value_and_grad(exact, t)
    objective = em.expectation(objective).using(using)
    assert_unbiased(enough_draws(objective, answer, BIAS, t), answer, BIAS)


@pytest.mark.parametrize("name", NORMAL)
def test_of_normals_value_and_gradient_are_those_of_the_closed_form(name):
    check(*NORMAL[name], T)


@pytest.mark.parametrize("name", SCORED)
def test_of_drawn_particles_value_and_gradient_are_those_of_all_outcomes(name):
    check(*DISCRETE[name], D, z=em.Score())


@pytest.mark.parametrize("name", DISCRETE)
def test_of_enumerated_particles_every_estimate_is_exact(name):
    objective, exact = DISCRETE[name]
    found = em.expectation(objective).value_and_grad(KEY, D)
    assert_exact(jax.tree.map(lambda x: x[None], found), value_and_grad(exact, D))


def test_particles_of_a_bound_may_have_vimco():
    check(*DISCRETE["iwelbo"], D, z=em.Vimco())


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_twin_fails(name):
    with pytest.raises(AssertionError, match="the mean is"):
        check(*BROKEN[name])


def test_the_bias_of_the_wake_phase_falls_like_one_over_n():
    """Enumerated, so that no error hides it: n (estimate - forward KL) is nearly constant."""
    log_joint = jax.vmap(lambda z: mixed(D)({"z": z}))(jnp.arange(OUTCOMES))
    exact = jax.grad(lambda x: -jax.nn.softmax(log_joint) @ jax.nn.log_softmax(x))(D["logits"])

    def bias(n):
        wake = em.expectation(lambda t: em.wake_phi(mixed(t), chosen(t), log_choice(t), n))
        return n * np.abs(wake.grad(KEY, D)["logits"] - exact).max()

    few, more = bias(2), bias(4)
    assert 0.05 < more and abs(more / few - 1) < 0.35


IMPOSSIBLE = {
    "elbo": lambda p, t: em.elbo(p, chosen(t)),
    "iwelbo": lambda p, t: em.iwelbo(p, chosen(t), 3),
    **{f"renyi {a}": lambda p, t, a=a: em.renyi(p, chosen(t), 3, a) for a in (-1.0, 0.5, 1.0, 2.0)},
    "wake theta": lambda p, t: em.wake_theta(p, chosen(t), 3),
    "wake phi": lambda p, t: -em.wake_phi(p, chosen(t), log_choice(t), 3),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_particles_that_are_all_impossible_give_minus_infinity(name):
    def never(t):
        return lambda z: jnp.where(z["z"] < 0, t["theta"], -jnp.inf)

    objective = em.expectation(lambda t: IMPOSSIBLE[name](never(t), t))
    value, grads = objective.value_and_grad(KEY, D)
    assert value == -np.inf and grads["theta"] == 0.0


@pytest.mark.parametrize("name", ["iwelbo", "renyi 2.0", "wake phi"])
def test_a_weight_that_is_no_number_is_not_hidden(name):
    def broken(z):
        return jnp.where(z["z"] == 1, jnp.nan, -1.0)

    assert jnp.isnan(em.expectation(lambda t: IMPOSSIBLE[name](broken, t)).estimate(KEY, D))


def test_an_impossible_particle_among_others_has_no_weight():
    x = jnp.array([-jnp.inf, 0.0, 1.0])
    value, grad = jax.value_and_grad(log_mean_exp)(x)
    np.testing.assert_allclose(value, np.log((1 + np.e) / 3), rtol=1e-6)
    np.testing.assert_allclose(grad, jax.nn.softmax(x), rtol=1e-6)
    assert not jax.grad(log_mean_exp)(x.at[1:].set(-jnp.inf)).any()

    def one_is_impossible(z):
        return jnp.where(z["z"] == 0, -jnp.inf, 0.3)

    hellinger = em.expectation(
        lambda t: em.f_divergence(lambda r: (jnp.sqrt(r) - 1) ** 2, one_is_impossible, chosen(t))
    )  # whose function has an infinite slope at zero
    q = jax.nn.softmax(D["logits"])
    exact = q[0] + jnp.sum((jnp.exp(0.15) - jnp.sqrt(q[1:])) ** 2)
    value, grads = hellinger.value_and_grad(KEY, D)
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    assert np.all(np.isfinite(grads["logits"]))


def test_a_bound_of_renyi_passes_into_its_limits():
    @functools.cache
    def at(alpha):
        bound = em.expectation(lambda t: em.renyi(joint(t), guide(t), 4, alpha))
        return jax.tree.map(np.asarray, bound.value_and_grad(KEY, T))

    for near, limit in ((1 - 1e-6, 1.0), (1 + 1e-6, 1.0), (np.float64(1e-6), 0)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), at(near), at(limit))
    importance = em.expectation(lambda t: em.iwelbo(joint(t), guide(t), np.int64(4)))
    assert at(0)[0] == importance.estimate(KEY, T)
    assert at(-1.0)[0] > at(0)[0] > at(1.0)[0] > at(3.0)[0]


def test_particles_are_one_axis_and_bounds_of_a_plate_are_apart():
    def size(n):
        bound = em.expectation(lambda t: em.iwelbo(joint(t), guide(t), n))
        return len(jax.make_jaxpr(lambda key: bound.surrogate(key, T))(KEY).eqns)

    assert size(2) == size(500)
    bound = DISCRETE["iwelbo"][0]
    plate = em.expectation(lambda t: jax.vmap(lambda _: bound(t))(jnp.arange(20)).mean())
    found = plate.value_and_grad(KEY, D)  # 27 points a lane, and not 27^20
    assert_exact(jax.tree.map(lambda x: x[None], found), value_and_grad(DISCRETE["iwelbo"][1], D))


def test_a_bound_has_second_derivatives():
    def curvature(mean):
        bound = em.expectation(lambda t: em.iwelbo(joint(t), guide(t), 3))
        return bound.surrogate(KEY, {**T, "mean": mean})

    slope = jax.grad(curvature)
    step = 1e-2
    numeric = (slope(T["mean"] + step) - slope(T["mean"] - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(slope)(T["mean"]), numeric, rtol=1e-2)


def unit(z):
    return jnp.zeros(())


MISTAKES = {
    "no particles": lambda t: em.iwelbo(unit, guide(t), 0),
    "a number of particles that is no integer": lambda t: em.wake_theta(unit, guide(t), 2.5),
    "an infinite order": lambda t: em.renyi(unit, guide(t), 2, float("inf")),
    "an order that is an array": lambda t: em.renyi(unit, guide(t), 2, t["theta"]),
    "an order of chi of one": lambda t: em.chi(unit, guide(t), order=1),
    "f that is no function": lambda t: em.f_divergence(2.0, unit, guide(t)),
    "f that is not zero at one": lambda t: em.f_divergence(jnp.square, unit, guide(t)),
    "f that is not scalar": lambda t: em.f_divergence(lambda r: jnp.log(r)[None], unit, guide(t)),
    "a proposal that draws nothing": lambda t: em.elbo(unit, lambda: normal.simulate),
    "a trace for a proposal": lambda t: em.iwelbo(unit, guide(t)(), 2),
    "a guide for a proposal": lambda t: em.forward_kl(normal, unit),
    "a model for a log density": lambda t: em.elbo(model, guide(t)),
    "a log density of each datum": lambda t: em.reverse_kl(
        lambda z: jnp.zeros(3, jnp.float32), guide(t)
    ),
    "a log density that is an integer": lambda t: em.sleep(guide(t), lambda z: 0),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name):
    single = jax.tree.map(lambda x: x.astype(jnp.float32), T)  # as the catalogue has it
    check_message(f"objective: {name}", em.expectation(MISTAKES[name]).estimate, KEY, single)
