"""Draws that have no name are numbered as the program has them, whatever their strategies are."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from tests.statistics import assert_unbiased, enough_draws

KEY = jax.random.key(0)
MANY = (em.LeaveOneOut(2), em.DisArm(), em.Rebar(), em.Enumerate())


@em.expectation
def chain(p):
    """Three flips of one site in a scan, and a draw after them."""

    def step(total, _):
        return total + em.draw(dist.Bernoulli(p)).astype(float), None

    total, _ = lax.scan(step, jnp.zeros(()), length=3)
    return total**2 + em.draw(dist.Normal(p, 1.0))


EXACT = 9 * 0.09 + 3 * 0.21 + 0.3, np.asarray(18 * 0.3 + 3 * (1 - 0.6) + 1)


@pytest.mark.parametrize("via", MANY, ids=lambda via: type(via).__name__)
def test_a_draw_in_a_scan_that_is_written_out_keeps_its_number(via):
    rows = chain.using({"draw 0": via, "draw 1": em.Score()}).explain(0.3).splitlines()[1:]
    assert [row.split(" (")[0].strip() for row in rows] == ["draw 0"] * 3 + ["draw 1"]
    assert all(repr(via) in row for row in rows[:3]) and "Score" in rows[3]


def test_its_estimates_are_unbiased():
    objective = chain.using({"draw 0": em.LeaveOneOut(2)})
    assert_unbiased(enough_draws(objective, EXACT, 0.5, 0.3), EXACT, 0.5)


def test_every_branch_counts_and_a_loop_once():
    @em.expectation
    def objective(p):
        coin = em.draw(dist.Bernoulli(p))
        a = lax.cond(
            coin == 1, lambda: em.draw(dist.Normal(p, 1.0)), lambda: em.draw(dist.Normal(0.0, 1.0))
        )
        b = jax.jit(lambda p: em.draw(dist.Normal(p, 2.0)))
        loop = lax.fori_loop(0, 2, lambda _, x: x + em.draw(dist.Normal(p, 1.0)), 0.0)
        return a + b(p) + b(p) + loop + em.sample("end", dist.Normal(p, 1.0))

    rows = objective.explain(0.3).splitlines()[1:]
    labels = [row.split(" (")[0].strip() for row in rows]
    assert labels == [*(f"draw {i}" for i in range(6)), "end"]


def test_a_longer_scan_is_refused_for_its_length():
    @em.expectation
    def objective(p):
        flip = lambda c, _: (c, em.draw(dist.Bernoulli(p)).astype(float))  # noqa: E731
        return jnp.sum(lax.scan(flip, 0.0, length=33)[1]) ** 2

    with pytest.raises(em.EstimandError, match="longer than 32 steps"):
        objective.using({"draw 0": em.LeaveOneOut(2)}).grad(KEY, 0.3)
