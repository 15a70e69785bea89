"""Uses of sites and of expectations that have no meaning, or two, are refused while they are
traced.

What is said of each mistake is in `messages.txt`; of a program that is `fine`, nothing.
"""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from tests.messages import THETA, Programs, check_message, trace

refused, fine = Programs(), Programs()


@refused.each()
def test_it_is_refused_and_says_where(name, program):
    check_message(name, trace, program)


@fine.each()
def test_it_is_fine(name, program):
    trace(program)


@refused
def one_term_with_a_site_both_live_and_detached(t):
    x = em.sample("x", dist.Bernoulli(probs=t[0]), via=em.Score()).astype(float)
    return em.detach(x) * jnp.exp(x)


@refused
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


@refused
def an_inner_expectation_with_strategies_of_its_own(t):
    return inner.using({"z": em.Score()})(t[0])


@refused
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


@pytest.mark.parametrize("name", NONLINEAR)
def test_a_non_linear_function_of_an_expectation_is_refused(name):
    check_message(f"a non-linear function: {name}", trace, NONLINEAR[name])


@pytest.mark.parametrize("objective", LINEAR.values(), ids=LINEAR)
def test_a_linear_function_of_an_expectation_is_fine(objective):
    trace(objective)


@refused
def a_vector_objective(t):
    return em.sample("x", dist.Normal(t, 1.0))


@refused
def a_site_in_the_predicate_of_a_while_loop(t):
    return t[0] * lax.while_loop(
        lambda s: em.draw(dist.Bernoulli(0.5), em.Score()) == 1, lambda s: s + 1.0, 0.0
    )


@refused
def a_site_inside_an_operation_without_a_rule_of_an_objective(t):
    def solve(matvec, b):
        return b + em.draw(dist.Normal(0.0, 1.0), em.Score())

    return lax.custom_linear_solve(lambda x: x, t[0], solve, solve)


@fine
def a_key_that_is_closed_over(t):
    return em.draw(dist.Normal(t[0], 1.0)) + jax.random.normal(jax.random.clone(KEY))


@fine
def a_loop_of_an_unknown_length_that_only_detaches(t):
    return lax.while_loop(lambda s: s < 3.0, lambda s: s + em.detach(t[0]), 0.0) + t[1]


@fine
def a_checkpoint_around_a_linear_use_of_an_expectation(t):
    return jax.checkpoint(lambda v: 2.0 * v)(inner(t[0]))


@fine
def a_branch_in_two_vmaps_on_a_site(t):
    """JAX selects between the site and its stop_gradient, and broadcasts both."""
    z = em.sample("z", dist.Bernoulli(probs=t[0]), via=em.Score()).astype(float)

    def lane(a, b):
        return lax.cond(a + b > 0, jnp.sin, jnp.cos, z)

    levels = jnp.arange(2.0)
    return jax.vmap(lambda a: jax.vmap(lambda b: lane(a, b))(levels))(levels).sum()


@refused
def an_integer_objective(t):
    return em.sample("x", dist.Bernoulli(probs=t[0]), via=em.Score())


@refused
def a_multi_point_site_in_a_while_loop(t):
    def step(s):
        return s + em.sample("x", dist.Bernoulli(probs=t[0]), via=em.Enumerate()) + 1

    return lax.while_loop(lambda s: s < 4, step, 0).astype(float) * t[1]


@refused
def a_multi_point_site_in_a_long_scan(t):
    def step(state, _):
        x = em.sample("x", dist.Bernoulli(probs=t[0]), via=em.MeasureValued()).astype(float)
        return jnp.sin(state + x), None

    return lax.scan(step, 0.0, None, length=40)[0]


@refused
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


@refused
def measure_valued_flips_that_multiply(t):
    flips = [em.draw(dist.Bernoulli(probs=t[0]), via=em.MeasureValued()) for _ in range(17)]
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
    for wrong in ("y", "w"):
        again = objective.using({wrong: em.Score()})
        check_message(f"using() of {wrong!r}", jax.eval_shape, again.grad, *START)
    check_message("using() of a strategy", objective.using, em.Score())


KEY = jax.random.key(0)
START = (KEY, THETA)


@em.expectation
def weighted(t, w, n):
    return w * em.draw(dist.Normal(t, 1.0)) * n


ARGNUMS = {"too large": 3, "too small": -4, "twice the same": (0, -3), "not a number": (None,)}


@pytest.mark.parametrize("name", ARGNUMS)
def test_argnums_must_be_positions_of_arguments(name):
    args = KEY, 0.3, 0.6, 2
    check_message(f"argnums {name}", weighted.grad, *args, argnums=ARGNUMS[name])


def test_argnums_count_from_either_end():
    args = KEY, 0.3, 0.6, 2
    value, (by_w, by_n, by_t) = weighted.value_and_grad(*args, argnums=(1, -1, 0))
    assert by_n is None and by_t == 1.2 and by_w * 0.6 == value
    assert weighted.grad(*args, argnums=-3) == weighted.grad(*args) == by_t


def test_a_state_goes_through_every_form_of_the_gradient():
    objective = em.expectation(lambda t: (em.draw(dist.Normal(t, 1.0)), {"t": t}))
    state = objective.init(KEY, 0.3)
    (out, grad), new = objective.value_and_grad(KEY, 0.3, has_aux=True, state=state)
    assert new == state == () and out[1] == {"t": 0.3} and grad == 1.0
    assert objective.grad(KEY, 0.3, has_aux=True, state=state) == ((1.0, {"t": 0.3}), ())
    assert objective.grad(KEY, 0.3, has_aux=True) == (1.0, {"t": 0.3})


def test_has_aux_takes_a_pair():
    objective = em.expectation(lambda t: em.draw(dist.Normal(t, 1.0)))
    check_message("has_aux of a number", objective.grad, KEY, 0.3, has_aux=True)
    check_message("no samples", objective.grad, KEY, 0.3, num_samples=0)


def test_an_integer_aux_is_not_averaged_over_samples():
    objective = em.expectation(lambda t: (em.draw(dist.Normal(t, 1.0)), {"count": 3}))
    settings = dict(has_aux=True, num_samples=2)
    check_message("an integer aux of several samples", objective.grad, KEY, 0.3, **settings)


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

    check_message("an integer aux of a lifted site", with_aux, em.Enumerate())
    with_aux(em.Score())
