"""What would be biased, or mean something else than was written, stops while it is traced, and
says where and why.

What is said of each mistake is in `messages.txt`; a program that is `fine` is of the same kind,
and no error is due.
"""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import estimand as em
from tests.messages import Programs, check_message, trace

refused, fine = Programs(), Programs()


@refused.each()
def test_it_is_refused_and_says_where(name, program):
    check_message(name, trace, program)


@fine.each()
def test_it_is_fine(name, program):
    trace(program)


def site(make, via, name="x"):
    """An objective with one site: the square of its value."""

    def objective(t):
        return (em.sample(name, make(t), via=via).astype(float) ** 2).sum()

    return objective


@refused
def a_jump_of_a_pathwise_value(t):
    x = em.sample("x", dist.Normal(t[0], 1.0))
    return jnp.where(x > 0, x, 2.0)


@refused
def a_jump_at_a_moved_threshold(t):
    x = em.sample("x", dist.Normal(0.0, 1.0), via=em.Score())
    return jnp.where(x > t[0], 1.0, 2.0)


@refused
def a_value_that_may_leave_a_support(t):
    x = em.sample("x", dist.Normal(t[0], 1.0))
    return em.gen(lambda: em.sample("y", dist.Exponential(1.0))).log_density({"y": x - 3.0})


@refused
def a_site_inside_a_custom_rule(t):
    @jax.custom_jvp
    def inside(u):
        return u + em.sample("x", dist.Normal(0.0, 1.0))

    inside.defjvp(lambda primals, tangents: (inside(*primals), tangents[0]))
    return inside(t[0])


@refused
def a_factor_in_an_objective(t):
    em.factor("w", t[1])
    return em.sample("x", dist.Normal(t[0], 1.0))


@refused
def a_loop_with_a_site_that_carries_what_moves(t):
    def body(s):
        return s + t[0] + em.sample("x", dist.Bernoulli(0.5), via=em.Score()).astype(float)

    return jax.lax.while_loop(lambda s: s < 3.0, body, 0.0)


@refused
def a_distribution_that_no_strategy_can_carry(t):
    return em.sample("x", dist.Bernoulli(t[0]).mask(t[1] > 0)).astype(float)


class Wide(dist.Normal):
    """A distribution whose density has an axis too many."""

    def log_prob(self, value):
        return super().log_prob(value)[None]


@refused
def a_density_of_another_shape_than_its_batch(t):
    return em.gen(lambda: em.sample("y", Wide(t[0], 1.0))).log_density({"y": 0.1})


def score_in_a_while_loop(t):
    def body(s):
        return s + 0.5 + em.sample("x", dist.Bernoulli(t), via=em.Score()).astype(float)

    return jax.lax.while_loop(lambda s: s < 3.0, body, 0.0)


def test_a_second_derivative_through_a_kink_is_refused():
    rectified = em.expectation(lambda t: jax.nn.relu(em.sample("x", dist.Normal(t, 1.0))))
    curvature = jax.hessian(lambda t: rectified.surrogate(jax.random.key(0), t))
    check_message("a second derivative through a kink", curvature, 0.4)


def test_a_second_derivative_of_a_score_in_a_while_loop_is_refused():
    surrogate = em.expectation(score_in_a_while_loop).surrogate
    curvature = jax.hessian(lambda t: surrogate(jax.random.key(0), t))
    check_message("a second derivative through a while_loop", curvature, jnp.array(0.4))


def test_a_message_names_the_line_of_its_site():
    def objective(t):
        return em.sample("x", 1.0)

    line = objective.__code__.co_firstlineno + 1
    with pytest.raises(em.EstimandError, match=rf"'x' \(test_checks\.py:{line}\)"):
        trace(objective)


# Supports that the parameters move.

MOVING = {
    "Uniform": lambda t: dist.Uniform(0.0, t[0]),
    "LogUniform": lambda t: dist.LogUniform(t[0], 2.0),
    "Pareto": lambda t: dist.Pareto(t[0], 2.0),
    "truncated normal": lambda t: dist.TruncatedNormal(0.0, 1.0, low=t[0]),
    "transformed by a scale": lambda t: dist.TransformedDistribution(
        dist.Uniform(0.0, 1.0),
        dist.transforms.AffineTransform(0.0, t[0], domain=dist.constraints.unit_interval),
    ),
    "transformed by a scale that claims all of the reals": lambda t: dist.TransformedDistribution(
        dist.Uniform(0.0, 1.0), dist.transforms.AffineTransform(0.0, t[0])
    ),
    "a shifted log-normal": lambda t: dist.TransformedDistribution(
        dist.Normal(0.0, 1.0),
        [dist.transforms.ExpTransform(), dist.transforms.AffineTransform(t[0], 1.0)],
    ),
    "a transform of a moving support": lambda t: dist.TransformedDistribution(
        dist.Uniform(0.0, t[0]), dist.transforms.ExpTransform()
    ),
    "a component of a mixture": lambda t: dist.MixtureGeneral(
        dist.Categorical(jnp.ones(2) / 2),
        [dist.Normal(0.0, 1.0), dist.Uniform(0.0, t[0])],
        support=dist.constraints.real,
    ),
    "moved atoms": lambda t: dist.TransformedDistribution(
        dist.Poisson(2.0), dist.transforms.AffineTransform(0.0, t[0])
    ),
    "an atom": lambda t: dist.Delta(t[0]),
    "atoms in a mixture": lambda t: dist.MixtureSameFamily(
        dist.Categorical(jnp.ones(2) / 2), dist.Delta(t)
    ),
}
STANDING = {
    "Uniform": lambda t: dist.Uniform(0.0, 1.0),
    "Bernoulli": lambda t: dist.Bernoulli(probs=t[0]),
    "Categorical": lambda t: dist.Categorical(logits=t),
    "Binomial": lambda t: dist.Binomial(4, probs=t[0]),
    "Multinomial": lambda t: dist.Multinomial(4, logits=t),
    "DiscreteUniform": lambda t: dist.DiscreteUniform(0, 3),
    "truncated normal with fixed ends": lambda t: dist.TruncatedNormal(
        t[0], t[1], low=-1.0, high=1.0
    ),
    "Gamma": lambda t: dist.Gamma(t[0], t[1]),
    "Dirichlet": lambda t: dist.Dirichlet(t),
    "log-normal": lambda t: dist.LogNormal(t[0], t[1]),
    "a transform of all of the reals": lambda t: dist.TransformedDistribution(
        dist.Normal(0.0, 1.0),
        [dist.transforms.AffineTransform(t[0], t[1]), dist.transforms.ExpTransform()],
    ),
    "a mixture of normals": lambda t: dist.MixtureSameFamily(
        dist.Categorical(logits=t), dist.Normal(t, 1.0)
    ),
}


@pytest.mark.parametrize("name", MOVING)
def test_a_score_where_a_parameter_bounds_the_support_is_refused(name):
    check_message(f"a moving support: {name}", trace, site(MOVING[name], em.Score()))


@pytest.mark.parametrize("make", STANDING.values(), ids=STANDING)
def test_a_score_where_nothing_moves_the_support_is_fine(make):
    trace(site(make, em.Score()))


@refused
def support_bounded_by_a_pathwise_value(t):
    x = em.sample("x", dist.LogNormal(t[0], 1.0), via=em.Pathwise())
    return em.sample("y", dist.Uniform(0.0, x), via=em.Score())


@fine
def support_bounded_by_a_scored_value(t):
    x = em.sample("x", dist.LogNormal(t[0], 1.0), via=em.Score())
    return em.sample("y", dist.Uniform(0.0, x), via=em.Score())


@fine
def pathwise_value_with_a_moving_support(t):
    return em.sample("y", dist.Uniform(0.0, t[0]), via=em.Pathwise()) ** 2


# Strategies that a distribution cannot carry.

NOT_CARRIED = {
    "Pathwise for flips": (lambda t: dist.Bernoulli(probs=t[0]), em.Pathwise()),
    "Pathwise for counts": (lambda t: dist.Poisson(t[0]), em.Pathwise()),
    "Enumerate for counts": (lambda t: dist.Poisson(t[0]), em.Enumerate()),
    "Enumerate for normals": (lambda t: dist.Normal(t[0], 1.0), em.Enumerate()),
    "MeasureValued for a Student's t": (lambda t: dist.StudentT(t[0], t[1]), em.MeasureValued()),
    "Pathwise for von Mises": (lambda t: dist.VonMises(t[0], t[1]), em.Pathwise()),
    "Enumerate over a traced bound": (
        lambda t: dist.Binomial(t[0].astype(int) + 3, probs=t[0]),
        em.Enumerate(),
    ),
    "Enumerate over nothing": (lambda t: dist.DiscreteUniform(3, 2), em.Enumerate()),
    "a distribution of nothing": (lambda t: dist.Categorical(logits=t[:0]), em.Enumerate()),
    "Score for a masked density": (lambda t: dist.Normal(t[0], 1.0).mask(t > 0), em.Score()),
    "Score for a censored density": (
        lambda t: dist.LeftCensoredDistribution(dist.Normal(t[0], 1.0), jnp.array(0)),
        em.Score(),
    ),
}


@pytest.mark.parametrize("name", NOT_CARRIED)
def test_a_strategy_that_the_distribution_cannot_carry_lists_those_that_it_can(name):
    check_message(f"a strategy not carried: {name}", trace, site(*NOT_CARRIED[name]))


@fine
def measure_valued_gamma_with_a_differentiated_concentration(t):
    return em.sample("x", dist.Gamma(t[0], 1.0), via=em.MeasureValued())


@refused
def measure_valued_weibull_with_a_differentiated_concentration(t):
    return em.sample("x", dist.Weibull(t[0], t[1]), via=em.MeasureValued())


@refused
def a_strategy_by_its_name(t):
    return em.sample("x", dist.Normal(t[0], 1.0), via="score")


# Derivatives of higher order than a strategy carries.


def second_derivative(via):
    objective = em.expectation(
        lambda t: (em.sample("x", dist.Bernoulli(probs=t), via=via).astype(float) + t) ** 3
    )
    return jax.eval_shape(
        jax.hessian(lambda t: objective.surrogate(jax.random.key(0), t)), jnp.array(0.4)
    )


def test_a_derivative_of_higher_order_than_a_strategy_carries_names_the_site():
    check_message("a second derivative", second_derivative, em.MeasureValued())
    second_derivative(em.Score())
    second_derivative(em.Enumerate())
