"""`Stratified`: mixtures by an enumerated component with a pathwise draw inside."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from tests.cases.mixtures import CASES, T, mixture
from tests.marks import by_default
from tests.messages import Programs, check_message, trace
from tests.statistics import assert_exact, assert_unbiased, draws, enough_draws, scale

fast = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def holds(strategy, case):
    objective, theta = case.objective(strategy), jnp.array(case.theta)
    min_bias = 0.05 * scale(case.answer)
    samples = enough_draws(objective, case.answer, min_bias, theta)
    assert_unbiased(samples, case.answer, min_bias)


@pytest.mark.legs
@pytest.mark.parametrize(
    "case",
    by_default(CASES, "LanesThatMeet", "LanesApart", "OfDifferentFamilies", "AScanOfMixtures"),
)
def test_value_and_gradient_are_unbiased(case):
    holds(em.Stratified(), case)


@pytest.mark.full
def test_every_second_derivative_is_unbiased():
    objective = em.expectation(lambda t: em.draw(mixture(t), via=em.Stratified()) ** 3)

    def exact(t):
        p, s = jax.nn.softmax(jnp.stack([t[0], 0.0])), jnp.array([0.5, 1.0])
        return jnp.sum(p * (t[1:] ** 3 + 3 * t[1:] * s**2))

    keys = jax.random.split(jax.random.key(0), 2**15)
    hessian = fast(jax.vmap(jax.hessian(objective.surrogate, 1), (0, None)))
    theta = jnp.array(T)
    assert_unbiased(hessian(keys, theta), jax.hessian(exact)(theta), 0.2)


def by_hand(t):
    k = em.draw(dist.Categorical(logits=jnp.stack([t[0], 0 * t[0]])), via=em.Enumerate())
    return em.draw(dist.Normal(t[1:][k], jnp.array([0.5, 1.0])[k]), via=em.Pathwise())


def test_it_is_an_enumerated_component_with_a_pathwise_draw():
    """By hand, all components share their noise; given that, both are one estimator."""
    theta = jnp.array(T)
    one = draws(em.expectation(lambda t: jnp.sin(by_hand(t) * 2) + t[0]), 2**14, theta)
    exact = CASES["OneMixture"].answer
    assert_unbiased(one, exact, 0.1)
    assert_unbiased(draws(CASES["OneMixture"].objective(em.Stratified()), 2**14, theta), exact, 0.1)

    def without_noise(t):
        points = dist.MixtureSameFamily(dist.Categorical(logits=t), dist.Delta(t))
        return jnp.exp(em.draw(points, via=em.Stratified()))

    def without_noise_by_hand(t):
        return jnp.exp(t[em.draw(dist.Categorical(logits=t), via=em.Enumerate())])

    value, grad = draws(em.expectation(without_noise_by_hand), 2, theta)
    assert_exact(draws(em.expectation(without_noise), 2, theta), (value[0], grad[0]))


@dataclass(frozen=True)
class WithoutWeights(em.Stratified):
    """A broken twin: the probabilities are not differentiated."""

    def combine(self, law, values, f):
        frozen = type(law)(**{**law.__dict__, "leaves": lax.stop_gradient(law.leaves)})
        return super().combine(frozen, values, f)


@dataclass(frozen=True)
class ChosenComponent(em.Strategy):
    """BIASED, as in some papers on mixtures of experts: one component is chosen by sampling, and
    its draw is reparameterised; no derivative goes to the mixing probabilities."""

    pathwise = True

    def points(self, key, law):
        return law.sample(key)


@dataclass(frozen=True)
class WeightedMean(em.Strategy):
    """BIASED, as in others: one normal with the mixture's mean, a soft choice of the experts."""

    pathwise = True

    def points(self, key, law):
        return law.map(lambda d: d.mean + jax.random.normal(key, d.batch_shape))


@pytest.mark.parametrize("strategy", [WithoutWeights(), ChosenComponent(), WeightedMean()])
def test_surrogates_without_a_derivative_in_the_probabilities_are_seen_to_be_biased(strategy):
    with pytest.raises(AssertionError, match="the exact answer"):
        holds(strategy, CASES["OneMixture"])


def test_a_component_of_probability_zero_is_not_evaluated():
    def objective(t):
        probs = jnp.stack([0 * t[0], t[0], 1 - t[0]])
        parts = dist.Normal(jnp.stack([-50 + t[1], 5 + t[1], 9 + t[1]]), 0.5)
        x = em.draw(
            dist.MixtureSameFamily(dist.Categorical(probs=probs), parts), via=em.Stratified()
        )
        return jnp.log(x)  # a NaN at the first

    def exact(world, t):
        return np.log(world.normal((5, 9)[world.choose((0, 1), (t[0], 1 - t[0]))] + t[1], 0.5))

    CASES.case((0.3, 0.2))(type("Zero", (), {"program": lambda t, via: 0.0, "exact": exact}))
    answer = CASES.pop("Zero").answer
    assert_unbiased(draws(em.expectation(objective), 2**13, jnp.array([0.3, 0.2])), answer, 0.05)


def test_a_single_component_is_pathwise_also_in_a_long_loop():
    def objective(t):
        one = dist.MixtureSameFamily(dist.Categorical(logits=t[:1]), dist.Normal(t[1:2], 0.5))
        step = lambda c, _: (c + em.draw(one, via=em.Stratified()), None)  # noqa: E731
        return lax.scan(step, em.draw(one, via=em.Stratified()), None, length=40)[0]

    assert_exact(draws(em.expectation(objective), 4, jnp.array(T))[1], np.array([0.0, 41.0, 0.0]))


def test_no_lanes_at_all():
    def objective(t, n=0):
        xs = jax.vmap(lambda _: em.draw(mixture(t), via=em.Stratified()))(jnp.arange(n))
        return jnp.exp(xs.sum()) * t[0]

    assert_exact(draws(em.expectation(objective), 2, jnp.array(T)), (T[0], np.array([1.0, 0, 0])))


def test_what_it_costs_is_explained():
    (line,) = [x for x in CASES["LanesThatMeet"].objective(em.Stratified()).explain(jnp.array(T))
               .splitlines() if "Stratified" in x]  # fmt: skip
    assert "4 evaluations" in line and "probability zero" in line


refused = Programs()


def component(d):
    return dist.Mixture(dist.Categorical(logits=jnp.zeros(2)), d)


@refused
def a_distribution_that_is_no_mixture(t):
    return em.draw(dist.Normal(t[0], 1.0), via=em.Stratified())


@refused
def components_that_are_not_reparameterised(t):
    return em.draw(component(dist.Poisson(jnp.exp(t))), via=em.Stratified()).astype(float)


@refused
def components_with_different_supports(t):
    parts = [dist.Normal(t[0], 1.0), dist.HalfNormal(1.0)]
    mixing = dist.Categorical(logits=t)
    real = dist.constraints.real
    return em.draw(dist.MixtureGeneral(mixing, parts, support=real), via=em.Stratified())


@refused
def components_with_supports_of_their_own(t):
    parts = [dist.Uniform(0.0, t[0]), dist.Uniform(0.0, 1.0)]
    return em.draw(component(parts), via=em.Stratified())


@refused
def a_mixture_made_an_event(t):
    d = dist.MixtureSameFamily(dist.Categorical(logits=t), dist.Normal(t, 1.0)).expand([2])
    return em.draw(d.to_event(1), via=em.Stratified()).sum()


@refused
def a_mixture_in_a_branch(t):
    d = component(dist.Normal(t, 1.0))
    return lax.cond(t[1] > 0, lambda: em.draw(d, via=em.Stratified()), lambda: t[0])


@refused
def too_many_lanes_that_meet(t):
    d = component(dist.Normal(t, 1.0)).expand([20])
    return jnp.exp(em.draw(d, via=em.Stratified()).sum())


@refused.each()
def test_what_it_cannot_do_is_refused(name, program):
    check_message(f"stratified: {name}", trace, program)
