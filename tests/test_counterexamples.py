"""What a plausible compiler of gradient estimators gets wrong, with the exact answer or a refusal.

The programs are in `tests.attacks`; here are the properties that are not a value and a gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from tests.attacks import ATTACKS
from tests.cases.table import flip, normal
from tests.statistics import assert_exact, assert_unbiased, draws, gradients, keys


@ATTACKS.legs()
def test_the_answer_is_exact(case, strategy):
    case.hold(strategy)


def cube(via):
    """(x + p)^3 (1 + x), x ~ Bernoulli(sin p): its second derivative at 0.3 is 23.446."""

    def objective(p):
        x = flip(jnp.sin(p), via)
        return (x + p) ** 3 * (1 + x)

    return em.expectation(objective)


def curvature(objective, key):
    return jax.hessian(lambda p: objective.surrogate(key, p))(0.3)


@pytest.mark.parametrize("via", [em.Score(), em.Enumerate()], ids=["Score", "Enumerate"])
def test_a_second_derivative_is_exact(via):
    samples = jax.jit(jax.vmap(lambda key: curvature(cube(via), key)))(keys(2**16))
    assert_unbiased(samples, 23.446, min_bias=1.5)


@pytest.mark.parametrize(
    "twice", [jax.hessian, lambda f: jax.jacfwd(jax.jacfwd(f)), lambda f: jax.grad(jax.grad(f))]
)
def test_a_second_derivative_of_a_measure_valued_site_is_refused(twice):
    with pytest.raises(em.EstimandError, match="order 1 only"):
        twice(lambda p: cube(em.MeasureValued()).surrogate(jax.random.key(0), p))(0.5)


def test_a_density_whose_support_moves_with_a_pathwise_value_is_refused():
    """d/dmu E[Uniform(0, x).pdf(0.9)] is 0.336; the derivative of 1 / x alone gives -0.561."""

    @em.gen
    def model(x):
        em.sample("y", dist.Uniform(0.0, x))

    def objective(via):
        @em.expectation
        def density(mu):
            x = em.sample("x", dist.TruncatedNormal(mu, 0.3, low=0.1), via=via)
            return jnp.exp(model.log_density({"y": 0.9}, x))

        return density

    with pytest.raises(em.EstimandError, match="support"):
        objective(em.Pathwise()).grad(jax.random.key(0), 1.2)
    assert jnp.isfinite(objective(em.Score()).grad(jax.random.key(0), 1.2))


def test_a_custom_rule_around_a_site_is_not_lost_but_refused():
    @jax.custom_vjp
    def amplified(u):
        return u + em.draw(dist.Normal(0.0, 1.0))

    amplified.defvjp(lambda u: (amplified(u), None), lambda _, g: (100 * g,))
    assert jnp.isfinite(em.seed(amplified)(jax.random.key(0), 0.5))
    with pytest.raises(em.EstimandError, match="custom|amplified"):
        em.expectation(amplified).grad(jax.random.key(0), 0.5)


def test_strategies_are_resolved_when_interpreting_not_when_a_trace_is_cached():
    @jax.jit
    def helper(p):
        return em.sample("z", dist.Bernoulli(probs=p)).astype(float)

    objective = em.expectation(lambda p: (helper(p) - p) ** 2)
    for via, exact in ((em.Enumerate(), True), (em.Score(), False), (em.Enumerate(), True)):
        spread = np.std(gradients(objective.using({"z": via}), 64, jnp.array(0.3)))
        assert (spread < 1e-5) == exact


@pytest.mark.parametrize(
    "f, slopes", {"sqrt": (jnp.sqrt, 0.5), "log": (jnp.log, 1.0)}.values(), ids=["sqrt", "log"]
)
@pytest.mark.parametrize(
    "via", [em.Enumerate(), em.MeasureValued()], ids=["Enumerate", "MeasureValued"]
)
def test_a_point_of_probability_zero_leaves_no_nan(via, f, slopes):
    """P(z = 0) is zero, and f(z t) has no finite derivative there: d/dt E[f(z t)] at t = 1 is
    that of z = 1.
    """

    @em.expectation
    def objective(t):
        z = em.draw(dist.Categorical(probs=jnp.array([0.0, 1.0])), via=via)
        return f(z.astype(float) * t)

    samples = draws(objective, 8, jnp.array(1.0))
    assert_exact(samples, (f(1.0), slopes))


ONE_OF_TWO = {
    "Bernoulli": lambda: dist.Bernoulli(probs=jnp.array(1.0)),
    "expanded": lambda: dist.Bernoulli(probs=jnp.array(1.0)).expand([2]),
    "expanded Categorical": lambda: dist.Categorical(probs=jnp.array([0.0, 1.0])).expand([2]),
    "Binomial": lambda: dist.Binomial(1, probs=jnp.array(1.0)),
    "Binomial in logits": lambda: dist.Binomial(1, logits=jnp.array(jnp.inf), validate_args=False),
}


@pytest.mark.parametrize("make", ONE_OF_TWO.values(), ids=ONE_OF_TWO)
def test_a_probability_of_zero_is_exactly_zero_for_every_distribution(make):
    """NumPyro clamps the log densities; sqrt(z t) has no derivative at z = 0."""

    @em.expectation
    def objective(t):
        return jnp.sqrt(em.draw(make(), via=em.Enumerate()).astype(float) * t).mean()

    assert objective.value_and_grad(jax.random.key(0), jnp.array(1.0)) == (1.0, 0.5)


@pytest.mark.parametrize("via", [em.Score, em.Enumerate, em.MeasureValued])
def test_probabilities_that_do_not_sum_to_one_are_normalised(via):
    weights, payoff = jnp.array([1.0, 1.0, 2.0]), jnp.array([1.0, 2.0, 4.0])
    objective = em.expectation(lambda w: payoff[em.draw(dist.Categorical(probs=w), via=via())])
    exact = 2.75, np.array([-0.4375, -0.1875, 0.3125])
    assert_unbiased(draws(objective, 2**14, weights), exact, min_bias=0.1)


def test_the_value_at_the_boundary_of_a_free_probability_is_exact():
    objective = em.expectation(lambda p: 3 * flip(p, em.Enumerate()) + 1)
    value, gradient = objective.value_and_grad(jax.random.key(0), jnp.array(0.0))
    assert value == 1.0 and gradient == 0.0  # 3 in one direction only: dropped, as `explain` says
    assert "no derivative from points of probability zero" in objective.explain(0.0)


def test_a_baseline_belongs_to_the_site_and_not_to_each_term():
    """A cost of 10 in one term, or in ten of 1: a baseline of 10 leaves the same small spread,
    and no bias.
    """

    def spread(terms, baseline):
        def objective(p):
            x = flip(p, em.Score(baseline=baseline))
            return sum(jnp.exp(0 * x) * 10 / terms + x**i / 100 for i in range(terms))

        slopes = gradients(em.expectation(objective), 2**13, jnp.array(0.5))
        exact = sum(1 / 100 for i in range(1, terms))
        assert_unbiased(slopes, exact, min_bias=2.0 if baseline == 0.0 else 0.1)
        return np.std(slopes)

    assert spread(1, 10.0) < 0.1 and spread(10, 10.0) < 0.2
    assert spread(10, 0.0) > 15


def test_a_baseline_of_a_detached_site_adds_nothing():
    def spread(baseline):
        objective = em.expectation(lambda p: em.detach(flip(p, em.Score(baseline))) * p)
        return np.std(gradients(objective, 2**10, jnp.array(0.5)))

    assert spread(50.0) == spread(0.0)


SAME = {
    "gather": lambda c, z: jnp.stack([0 * c, c])[z],
    "one-hot product": lambda c, z: jax.nn.one_hot(z, 2) @ jnp.stack([0 * c, c]),
    "select": lambda c, z: jnp.where(z == 1, c, 0.0),
    "linear dot product": lambda c, z: jnp.dot(z.astype(float), jnp.ones(6)) * c,
    "reshape and transpose": lambda c, z: z.astype(float).reshape(2, 3).T.reshape(3, 2) * c,
    "stack and slice": lambda c, z: jnp.stack([1 - z, z], axis=1)[:, 1].astype(float) * c,
    "relu": lambda c, z: jax.nn.relu(z.astype(float) * c),
    "sine": lambda c, z: jnp.sin(z.astype(float) * jnp.pi / 2) * c,
}


@pytest.mark.parametrize("written", SAME.values(), ids=SAME)
def test_lanes_keep_their_own_credit_however_the_program_is_written(written):
    """Written in any of these ways, c times the sum of six flips has the spread that arithmetic
    gives it.
    """

    def spread(f):
        def objective(t):
            z = jax.vmap(lambda _: em.draw(dist.Bernoulli(probs=t[0]), via=em.Score()))(
                jnp.arange(6)
            )
            return f(t[1], z).sum()

        return np.std(gradients(em.expectation(objective), 2**12, jnp.array([0.4, 1.5])), axis=0)

    np.testing.assert_allclose(spread(written), spread(lambda c, z: c * z.astype(float)), rtol=1e-3)


def test_a_later_site_uses_one_key_at_every_point():
    """y | x = 100 x + noise: with one noise for both points the spread of the estimate is 1,
    with two it is less.
    """
    objective = em.expectation(lambda p: normal(100 * flip(p, em.Enumerate()), 1.0, em.Pathwise()))
    values, _ = draws(objective, 2**14, jnp.array(0.5))
    np.testing.assert_allclose(np.std(values), 1.0, rtol=0.03)


def test_a_branch_not_taken_gives_no_nan():
    """The operand has an axis of points, the predicate has none: the branch stays a branch."""

    @em.expectation
    def objective(t):
        x = flip(t, em.Enumerate())
        return lax.cond(t > 0, lambda x: x, lambda x: jnp.sqrt(x - x), x)

    assert objective.grad(jax.random.key(0), 0.3) == 1.0


def test_choices_of_a_vmap_of_a_scan_have_steps_before_lanes():
    @em.gen
    def program():
        def chain(_):
            return lax.scan(lambda c, _: (c, em.sample("x", dist.Normal(0.0, 1.0))), 0, length=5)[1]

        return jax.vmap(chain)(jnp.arange(2))

    trace = em.seed(program.simulate)(jax.random.key(0))
    assert trace.value.shape == (2, 5) and trace.choices["x"].shape == (5, 2)


def test_floating_aux_is_averaged_over_points_and_samples():
    @em.expectation
    def objective(p):
        x = flip(p, em.Enumerate())
        return x * p, {"x": x, "squared": (x + 1) ** 2}

    (value, aux), _ = objective.value_and_grad(jax.random.key(0), 0.3, has_aux=True, num_samples=3)
    np.testing.assert_allclose([value, aux["x"], aux["squared"]], [0.09, 0.3, 1.9], rtol=1e-5)


def test_a_debug_callback_sees_every_point():
    """Apart from the table: under a vmap over keys JAX unrolls callbacks."""
    seen = []

    @em.expectation
    def objective(t):
        x = em.draw(dist.Bernoulli(probs=t), via=em.Enumerate()).astype(float)
        jax.debug.callback(lambda x: seen.append(float(x)), x)
        return jnp.exp(x)

    assert jnp.allclose(objective.grad(jax.random.key(0), 0.3), jnp.e - 1)
    jax.effects_barrier()
    assert sorted(set(seen)) == [0.0, 1.0]
