"""Uses of sites and of expectations that have no meaning, or two, are refused while they are
traced.

A row is an objective and pieces of its error; a row of `FINE` is one for which no error is due.
"""

import re

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em

THETA = jnp.array([0.3, 0.6])
HERE = r"\(test_meaning\.py:\d+\)"
ROWS, FINE = {}, {}


def trace(objective):
    """Build value and gradient, without running them."""
    return jax.eval_shape(em.expectation(objective).value_and_grad, jax.random.key(0), THETA)


def refused(*pieces):
    def enter(objective):
        ROWS[objective.__name__] = objective, pieces
        return objective

    return enter


def fine(objective):
    FINE[objective.__name__] = objective
    return objective


@pytest.mark.parametrize("objective, pieces", ROWS.values(), ids=ROWS)
def test_it_is_refused_and_says_where(objective, pieces):
    with pytest.raises(em.EstimandError) as refusal:
        trace(objective)
    for piece in pieces:
        assert re.search(piece, str(refusal.value)), f"no {piece!r} in: {refusal.value}"


@pytest.mark.parametrize("objective", FINE.values(), ids=FINE)
def test_it_is_fine(objective):
    trace(objective)


@refused("'(objective/)?x'", HERE, "detach")
def one_term_with_a_site_both_live_and_detached(t):
    x = em.sample("x", dist.Bernoulli(probs=t[0]), via=em.Score()).astype(float)
    return em.detach(x) * jnp.exp(x)


@refused("'(objective/)?x'", HERE, "detach")
def one_term_with_both_by_stop_gradient(t):
    x = em.sample("x", dist.Normal(t[0], 1.0), via=em.Score())
    return lax.stop_gradient(x) * x


@fine
def both_in_one_term_of_a_pathwise_site(t):
    x = em.sample("x", dist.Normal(t[0], 1.0), via=em.Pathwise())
    return lax.stop_gradient(x) * x


@fine
def live_and_detached_in_separate_terms(t):
    x = em.sample("x", dist.Bernoulli(probs=t[0]), via=em.Score()).astype(float)
    return em.detach(x) * t[1] + x**2


@em.expectation
def inner(p):
    return em.draw(dist.Bernoulli(probs=p)).astype(float)


NONLINEAR = {
    "log": lambda t: jnp.log(inner(t[0])),
    "square": lambda t: inner(t[0]) ** 2,
    "product": lambda t: inner(t[0]) * inner(t[1]),
    "comparison": lambda t: (inner(t[0]) > 0.5).astype(float),
    "maximum": lambda t: jnp.maximum(inner(t[0]), 0.2),
    "a site's parameter": lambda t: em.draw(dist.Bernoulli(probs=0.1 + 0.5 * inner(t[0]))).astype(
        float
    ),
}


@refused("inner", "using", "'z'")
def an_inner_expectation_with_strategies_of_its_own(t):
    return inner.using({"z": em.Score()})(t[0])


@refused("'with_aux'", "one real number", "tuple")
def an_inner_expectation_with_aux(t):
    @em.expectation
    def with_aux(p):
        return p, {"p": p}

    return with_aux(t[0])


LINEAR = {
    "sum": lambda t: inner(t[0]) + 2 * inner(t[1]),
    "negated": lambda t: -inner(t[0]) - inner(t[1]) / 3,
    "times a parameter": lambda t: inner(t[0]) * t[1],
    "times another site": lambda t: inner(t[0]) * em.draw(dist.Bernoulli(probs=t[1])).astype(float),
    "mean of a vmap": lambda t: jax.vmap(inner)(t).mean(),
    "in a scan": lambda t: lax.scan(lambda c, p: (c + inner(p), None), 0.0, t)[0],
}


@pytest.mark.parametrize("objective", NONLINEAR.values(), ids=NONLINEAR)
def test_a_non_linear_function_of_an_expectation_is_refused(objective):
    with pytest.raises(em.EstimandError, match="inner(.|\n)*linear"):
        trace(objective)


@pytest.mark.parametrize("objective", LINEAR.values(), ids=LINEAR)
def test_a_linear_function_of_an_expectation_is_fine(objective):
    trace(objective)


@refused("objective", "scalar", r"\[2\]")
def a_vector_objective(t):
    return em.sample("x", dist.Normal(t, 1.0))


@refused("objective", "scalar|float", "int")
def an_integer_objective(t):
    return em.sample("x", dist.Bernoulli(probs=t[0]), via=em.Score())


@refused("'(objective/)?x'", "while", "Enumerate")
def a_multi_point_site_in_a_while_loop(t):
    def step(s):
        return s + em.sample("x", dist.Bernoulli(probs=t[0]), via=em.Enumerate()) + 1

    return lax.while_loop(lambda s: s < 4, step, 0).astype(float) * t[1]


@refused("'(objective/)?x'", HERE, "scan", "32")
def a_multi_point_site_in_a_long_scan(t):
    def step(state, _):
        x = em.sample("x", dist.Bernoulli(probs=t[0]), via=em.MeasureValued()).astype(float)
        return jnp.sin(state + x), None

    return lax.scan(step, 0.0, None, length=40)[0]


@refused("'(objective/)?x'", HERE, "1024", r"test_meaning\.py:\d+(.|\n)*test_meaning\.py:\d+")
def an_enumerated_plate_that_is_mixed_over_the_cap(t):
    xs = jax.vmap(lambda _: em.sample("x", dist.Bernoulli(probs=t[0]), via=em.Enumerate()))(
        jnp.arange(12)
    )
    return jnp.exp(xs.astype(float).sum() * t[1])


@fine
def the_same_plate_below_a_higher_cap(t):
    xs = jax.vmap(lambda _: em.sample("x", dist.Bernoulli(probs=t[0]), via=em.Enumerate(cap=4096)))(
        jnp.arange(12)
    )
    return jnp.exp(xs.astype(float).sum() * t[1])


@refused("'draw 10'", HERE, "65536", "177147", r"Score\(\)")
def measure_valued_flips_that_multiply(t):
    flips = [em.draw(dist.Bernoulli(probs=t[0]), via=em.MeasureValued()) for _ in range(11)]
    return jnp.exp(sum(x.astype(float) for x in flips))


def test_using_takes_a_suffix_and_lists_the_candidates_otherwise():
    @em.gen
    def guide(t):
        em.sample("z", dist.Bernoulli(probs=t[0]))
        with em.scope("a"):
            em.sample("w", dist.Bernoulli(probs=t[1]))
        with em.scope("b"):
            em.sample("w", dist.Bernoulli(probs=t[1]))

    objective = em.expectation(lambda t: guide.simulate(t).log_density)
    jax.eval_shape(
        objective.using({"z": em.Score(), "a/w": em.Score(), "guide/b/w": em.Score()}).grad, *START
    )
    for wrong, pieces in (
        ("y", ("guide/z", "guide/a/w", "guide/b/w")),
        ("w", ("guide/a/w", "guide/b/w")),
    ):
        with pytest.raises(em.EstimandError) as refusal:
            jax.eval_shape(objective.using({wrong: em.Score()}).grad, *START)
        assert all(piece in str(refusal.value) for piece in (wrong, *pieces))


START = (jax.random.key(0), THETA)


def test_the_last_word_of_using_counts():
    objective = inner_site.using({"z": em.Score()}).using({"guide/z": em.Enumerate()})
    assert "Enumerate" in objective.explain(THETA)


@em.expectation
def inner_site(t):
    @em.gen
    def guide():
        em.sample("z", dist.Bernoulli(probs=t[0]))

    return guide.simulate().log_density


def test_an_integer_aux_that_depends_on_a_lifted_site_is_refused():
    def with_aux(via):
        @em.expectation
        def objective(t):
            x = em.sample("x", dist.Bernoulli(probs=t[0]), via=via)
            return x.astype(float) * t[1], {"count": x}

        return jax.eval_shape(lambda key, t: objective.value_and_grad(key, t, has_aux=True), *START)

    with pytest.raises(em.EstimandError, match="aux"):
        with_aux(em.Enumerate())
