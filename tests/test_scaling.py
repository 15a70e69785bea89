"""What enumeration and measure-valued differences cost: linear in the number of sites that do
not meet.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import estimand as em
from tests import oracle
from tests.cases.table import flip, pick
from tests.statistics import assert_exact, draws

MEMORY = (0.5, -1.0, 2.0)
EXACT = {"Enumerate": em.Enumerate(), "MeasureValued": em.MeasureValued()}


def plate(n, via):
    """n flips and n picks, each through a Bernoulli density, a gather, and a relu.

    The parameters are those of the sites alone, so that both strategies are without variance.
    """

    def objective(t):
        memory = jnp.array(MEMORY, t.dtype)

        def lane(level):
            z = pick(jnp.stack([t[0] * level, t[1], t[2]]), via)
            x = em.draw(dist.Bernoulli(probs=jax.nn.sigmoid(t[0] + level)), via=via)
            density = dist.Bernoulli(probs=jax.nn.sigmoid(level)).log_prob(x)
            return density + memory[z] * level + jax.nn.relu(x.astype(float) - 0.4)

        return jax.vmap(lane)(jnp.linspace(-1.0, 1.0, n, dtype=t.dtype)).sum()

    return em.expectation(objective)


def exact_plate(n, t):
    """Lanes are independent: the sum of their expectations."""
    p = oracle.sigmoid(t[0] + np.linspace(-1, 1, n))
    levels = np.linspace(-1, 1, n)
    q = oracle.sigmoid(levels)
    weights = np.stack([oracle.softmax([t[0] * u, t[1], t[2]]) for u in levels])
    density = p * np.log(q) + (1 - p) * np.log(1 - q)
    return (density + weights @ np.array(MEMORY) * levels + 0.6 * p).sum()


def sizes(jaxpr):
    """The sizes of all arrays that a program holds."""
    for eqn in jaxpr.eqns:
        yield from (v.aval.size for v in eqn.outvars if hasattr(v.aval, "size"))
        for value in jax.tree.leaves(list(eqn.params.values())):
            if hasattr(value, "eqns"):
                yield from sizes(getattr(value, "jaxpr", value))


def held(objective, *args):
    """The sizes of all arrays in the program for a value and a gradient."""
    return list(sizes(jax.make_jaxpr(objective.value_and_grad)(jax.random.key(0), *args).jaxpr))


THETA = jnp.array([0.3, 0.7, -0.2])


@pytest.mark.parametrize("via", EXACT.values(), ids=EXACT)
def test_a_thousand_lanes_have_an_exact_gradient(via):
    theta = np.asarray(THETA, np.float64)
    slopes = oracle.gradient(lambda world, t: exact_plate(1000, t), theta)
    values, gradients = draws(plate(1000, via), 4, THETA)
    assert_exact(gradients / 1000, slopes / 1000)
    if isinstance(via, em.Enumerate):
        assert_exact(values / 1000, exact_plate(1000, theta) / 1000)


@pytest.mark.parametrize("via", EXACT.values(), ids=EXACT)
def test_the_cost_is_linear_in_the_number_of_lanes(via):
    small, large = held(plate(100, via), THETA), held(plate(1000, via), THETA)
    assert len(small) == len(large)
    assert max(large) <= 20 * 1000 and sum(large) <= 10.5 * sum(small)


def test_enumerated_flips_in_separate_terms_are_evaluated_side_by_side():
    def objective(t):
        return sum((flip(p, em.Enumerate()) - 0.3) ** 2 for p in t)

    assert max(held(em.expectation(objective), jnp.full(10, 0.4))) <= 20


def test_a_chain_of_enumerated_flips_stays_linear_where_terms_are_pairwise():
    def objective(t):
        before, total = jnp.ones_like(t[0]), 0.0
        for _ in range(14):
            state = flip(jax.nn.sigmoid(t[0] + t[1] * before), em.Enumerate())
            total, before = total + (state - 0.5 * before) ** 2, state
        return total

    def exact(t):
        """The law of the chain, step by step."""
        ones, total, states = 1.0, 0.0, (0.0, 1.0)
        for _ in range(14):
            rows = {s: oracle.sigmoid(t[0] + t[1] * s) for s in states}
            law = {0.0: 1 - ones, 1.0: ones}
            for s in states:
                total += law[s] * ((1 - rows[s]) * (0.5 * s) ** 2 + rows[s] * (1 - 0.5 * s) ** 2)
            ones = sum(law[s] * rows[s] for s in states)
        return total

    theta = np.array([0.2, 0.6])
    answer = exact(theta), oracle.gradient(lambda world, t: exact(t), theta)
    samples = draws(em.expectation(objective), 4, jnp.array(theta, THETA.dtype))
    assert max(held(em.expectation(objective), jnp.array(theta, THETA.dtype))) <= 64
    assert_exact(samples, answer)
