"""What `check_unbiased` says where there is no derivative, and where nothing is finite."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import estimand as em
from tests.messages import check_message

KEY = jax.random.key(0)
PRICES = jnp.array([1.0, 2.0, 3.0])


def check(objective, *args, **kwargs):
    return em.check_unbiased(objective, *args, key=KEY, num_samples=256, **kwargs)


@em.expectation
def vector(p):
    return jnp.sum(em.sample("x", dist.Bernoulli(p)).astype(float) * PRICES) ** 2


FULL = pytest.mark.full


@pytest.mark.parametrize(
    "via",
    [em.Score(), pytest.param(em.Enumerate(), marks=FULL), pytest.param(em.DisArm(), marks=FULL)],
)
def test_entries_at_zero_and_one_are_not_checked_and_the_others_are(via):
    found = check(vector.using({"x": via}), jnp.array([0.0, 0.3, 1.0]))
    assert found.agrees and found.leaves[1].unchecked == [[0], [2]]
    assert "not checked, gradient[0], gradient[2]: outcomes of probability 0" in repr(found)
    assert [where.split()[1] for where in found.boundary] == ["'x'"]


def test_a_gradient_of_one_entry_is_then_not_checked_at_all():
    square = em.expectation(lambda p: (em.sample("x", dist.Bernoulli(p)).astype(float) - 0.45) ** 2)
    found = check(square, 0.0)
    assert (
        found.leaves[1].unchecked == [[]] and repr(found).splitlines()[3].split()[1:] == ["-"] * 3
    )
    with pytest.raises(em.EstimandError, match="derivative where site 'x' .* has outcomes of prob"):
        check(square, 0.0, exact=(0.2025, 0.1))


@FULL
def test_a_bias_beside_such_an_entry_is_found():
    class Broken(em.Score):
        def combine(self, law, values, f):
            return 1.3 * super().combine(law, values, f)

    with pytest.raises(em.EstimandError, match="Broken.* is biased"):
        check(vector.using({"x": Broken()}), jnp.array([0.0, 0.3, 1.0]))


MASKED = {
    "logits": lambda t: dist.Categorical(logits=jnp.stack([t, 0 * t, -jnp.inf + 0 * t])),
    "saturated": lambda t: dist.Bernoulli(logits=t - 1000.0),
    "still": lambda t: dist.Categorical(jnp.stack([t, 1 - t, 0 * t])),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "logits" else FULL) for n in MASKED]
)
def test_outcomes_that_stay_impossible_lose_nothing(name):
    objective = em.expectation(
        lambda t: em.sample("x", MASKED[name](t), via=em.Score()).astype(float) * (1 + t)
    )
    assert check(objective, 0.4).boundary == ()


@FULL
def test_a_count():
    count = em.expectation(lambda p: em.sample("x", dist.Binomial(4, p)).astype(float) ** 2)
    assert check(count.using({"x": em.Score()}), 0.0).leaves[1].unchecked == [[]]


def test_a_probability_that_depends_on_a_draw():
    def program(m, p):
        a = em.sample("a", dist.Normal(m, 1.0))
        b = em.sample("b", dist.Bernoulli(jnp.where(a > 0, p, 0.5)))
        return b.astype(float) * m

    objective = em.expectation(program).using({"a": em.Score(), "b": em.Score()})
    found = check(objective, 0.3, 0.0, argnums=(1, 0))
    assert [bool(leaf.unchecked) for leaf in found.leaves] == [False, True, False]


def test_estimates_that_are_not_finite_are_not_called_biased():
    def program(p, data):
        return em.sample("x", dist.Bernoulli(p), via=em.Score()).astype(float) + jnp.mean(data)

    data = jnp.array([1.0, jnp.nan])
    check_message("check_unbiased: not finite", check, em.expectation(program), 0.4, data)
    root = em.expectation(lambda p: em.sample("x", dist.Normal(p, 1.0)) + jnp.sqrt(p))
    with pytest.raises(
        em.EstimandError, match="inf in the gradient .*find_nonfinite|find_nonfinite"
    ):
        check(root, 0.0)
