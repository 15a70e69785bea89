"""Programs on which earlier systems are wrong without an error, or break: here they are right.

The programs are in `tests.peers`; here are the properties that are not a value and a gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax
from numpyro.infer import RenyiELBO

import estimand as em
from tests.cases.table import flip, normal, pick
from tests.peers import PEERS
from tests.statistics import assert_unbiased, draws, enough_draws, gradients, keys


@PEERS.legs()
def test_the_answer_is_exact(case, strategy):
    case.hold(strategy)


def plate_of_flips(via):
    return lambda ps: jax.vmap(lambda p: flip(p, via))(ps).sum()


def separate_flips(via):
    return lambda ps: sum(flip(p, via) for p in ps)


@pytest.mark.parametrize("flips", [plate_of_flips, separate_flips])
def test_the_spread_of_a_score_does_not_grow_with_the_number_of_other_sites(flips):
    objective = em.expectation(flips(em.Score()))
    spreads = [np.std(gradients(objective, 2**13, jnp.full(n, 0.5))[:, 0]) for n in (1, 20)]
    np.testing.assert_allclose(spreads, 1.0, rtol=0.05)  # x / p with x a fair coin


def unrolled(t):
    return sum((flip(p, em.Enumerate()) - 0.3) ** 2 for p in t)


def equations(jaxpr):
    inner = [
        v
        for eqn in jaxpr.eqns
        for v in jax.tree.leaves(list(eqn.params.values()))
        if hasattr(v, "eqns")
    ]
    return len(jaxpr.eqns) + sum(equations(getattr(sub, "jaxpr", sub)) for sub in inner)


def test_ten_enumerated_flips_make_a_small_program():
    surrogate = jax.make_jaxpr(em.expectation(unrolled).surrogate)(
        jax.random.key(0), jnp.full(10, 0.4)
    )
    assert equations(surrogate.jaxpr) < 500


def branching(t):
    total = 0.0
    for p in t:
        total = total + lax.cond(flip(p, em.Enumerate()) > 0.5, jnp.sin, jnp.cos, p)
    return total


def test_six_branches_on_enumerated_flips_make_a_small_program():
    surrogate = jax.make_jaxpr(em.expectation(branching).surrogate)(
        jax.random.key(0), jnp.full(6, 0.4)
    )
    assert equations(surrogate.jaxpr) < 500


def test_a_dead_branch_of_minus_infinity_leaves_value_and_gradient_finite():
    @em.expectation
    def objective(t):
        z = pick(jnp.stack([t[0], t[1], jnp.array(-jnp.inf, t.dtype)]), em.Enumerate())
        return jnp.array([1.0, 2.0, -jnp.inf], t.dtype)[z] * t[1]

    p, t = 1 / (1 + np.exp(-0.5)), (0.7, 0.2)
    value, gradient = objective.value_and_grad(jax.random.key(0), jnp.array(t))
    np.testing.assert_allclose(value, (2 - p) * t[1], rtol=1e-5)
    np.testing.assert_allclose(
        gradient, [-p * (1 - p) * t[1], p * (1 - p) * t[1] + 2 - p], rtol=1e-5
    )


def test_integer_static_and_nested_arguments_are_fine():
    @em.expectation
    def objective(params, n, flag, data):
        x = em.draw(dist.Normal(params["loc"], 1.0), via=em.Pathwise())
        return (x * n * data.sum().astype(float) if flag else x) + params["steps"]

    params = {"loc": jnp.array(0.5), "steps": 3, "table": jnp.arange(2)}
    _, grads = objective.value_and_grad(jax.random.key(0), params, 2, True, jnp.arange(3))
    assert grads["loc"] == 6.0 and grads["steps"] is None and grads["table"] is None
    value, grad = objective.value_and_grad(
        jax.random.key(0), params, 2, True, jnp.arange(3.0), argnums=3
    )
    assert grad.shape == (3,)


def test_differentiating_an_estimate_is_unbiased_as_well():
    objective = em.expectation(lambda p: flip(p, em.Score()))
    slopes = jax.vmap(lambda key: jax.grad(lambda p: objective.estimate(key, p))(0.4))(keys(2**13))
    assert_unbiased(slopes, 1.0, min_bias=0.2)


@pytest.mark.parametrize("via", [em.Score(), em.Enumerate()], ids=["Score", "Enumerate"])
def test_second_derivatives_are_unbiased(via):
    """d^2/dp^2 E[(x + p)^3] at p = 0.4: 2 d/dp applied to p (1 + p)^3 + (1 - p) p^3."""
    objective = em.expectation(lambda p: (flip(p, via) + p) ** 3)
    curvatures = jax.vmap(lambda key: jax.hessian(lambda p: objective.surrogate(key, p))(0.4))(
        keys(2**15)
    )
    p = np.polynomial.Polynomial([0, 1])
    assert_unbiased(curvatures, (p * (1 + p) ** 3 + (1 - p) * p**3).deriv(2)(0.4), min_bias=1.0)


NOISE = {
    "scan": lambda t: lax.scan(
        lambda c, _: (c + normal(t, 1.0, None), None), 0 * t, None, length=2
    )[0],
    "jit": jax.jit(lambda t: normal(t, 1.0, None)),
    "checkpoint": jax.checkpoint(lambda t: normal(t, 1.0, None)),
    "vmap": lambda t: jax.vmap(lambda _: normal(t, 1.0, None))(jnp.arange(2)).sum(),
    "cond": lambda t: lax.cond(t > 0, lambda: normal(t, 1.0, None), lambda: t),
    "while": lambda t: (
        t * lax.while_loop(lambda s: s < 2.0, lambda s: s + 0.4 + flip(0.5, em.Score()), 0.5)
    ),
}


@pytest.mark.parametrize("program", NOISE.values(), ids=NOISE)
def test_noise_is_never_a_constant_of_the_compiled_program(program):
    values, _ = draws(em.expectation(program), 64, jnp.array(0.5))
    assert np.std(values) > 0.1


def two_particles(via):
    """The importance-weighted bound of a flip, z ~ Bernoulli(0.8) observed once."""

    def objective(logit):
        def log_weight(_):
            z = em.draw(dist.Bernoulli(logits=logit), via=via)
            log_joint = jnp.where(z == 1, jnp.log(0.2), jnp.log(0.05))
            return log_joint - jax.nn.log_sigmoid(jnp.where(z == 1, logit, -logit))

        return jax.nn.logsumexp(jax.vmap(log_weight)(jnp.arange(2))) - jnp.log(2.0)

    return em.expectation(objective)


def numpyros_bound(key, logit):
    """NumPyro's, which knows of no score."""

    def model(logit):
        numpyro.sample("z", dist.Bernoulli(0.8))
        numpyro.sample("x", dist.Bernoulli(0.25), obs=1)

    def guide(logit):
        numpyro.sample("z", dist.Bernoulli(logits=logit))

    with jax.numpy_dtype_promotion("standard"):
        return -RenyiELBO(alpha=0.0, num_particles=2).loss(key, {}, model, guide, logit)


@pytest.mark.parametrize("via", [em.Vimco(), em.LeaveOneOut(2), em.Score()])
def test_a_bound_of_a_discrete_guide_has_the_right_sign(via):
    logit = jnp.array(0.5)
    value, slope = two_particles(em.Enumerate()).value_and_grad(jax.random.key(0), logit)
    exact = np.asarray(value), np.asarray(slope)
    samples = enough_draws(two_particles(via), exact, 0.05, logit)
    assert_unbiased(samples, exact, 0.05)


def test_numpyros_bound_of_a_discrete_guide_has_the_wrong_sign():
    logit = jnp.array(0.5)
    theirs = jax.jit(jax.vmap(jax.value_and_grad(numpyros_bound, 1), (0, None)))
    value, slope = two_particles(em.Enumerate()).value_and_grad(jax.random.key(0), logit)
    values, slopes = theirs(keys(2**14), logit)
    assert_unbiased(values, np.asarray(value), 0.05)
    assert_unbiased(slopes, -0.0978, 0.05)
    assert slope > 0.09  # 0.0995
