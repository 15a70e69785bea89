"""What the language cannot mean is refused: by the site's name and line, with what to do instead.

A row is a program and pieces of its error: the site, the operation, every address that is wrong.
"""

import re

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from tests.generative import LEVELS

HERE = r"test_refusals\.py:\d+"
ROWS = {}


def refused(*pieces):
    """Enter a program in the table, with regular expressions that its error must hold."""

    def enter(body):
        ROWS[body.__name__] = body, pieces
        return body

    return enter


@em.gen
def model():
    x = em.sample("x", dist.Normal(0.0, 1.0))
    n = em.sample("n", dist.Poisson(2.0))
    with em.scope("group"):
        em.sample("w", dist.Normal(x, 1.0).expand([3]))
        em.sample("rate", dist.Exponential(1.0 + n.astype(float)))


CHOICES = {"x": 0.0, "n": 1, "group": {"w": jnp.zeros(3), "rate": 1.0}}


def simulate(fun):
    return em.seed(em.gen(fun).simulate)(jax.random.key(0))


def test_the_choices_from_which_the_rows_deviate_are_fine():
    assert jnp.isfinite(model.log_density(CHOICES))


@refused("missing", r"'group/rate'", HERE)
def missing_address():
    model.assess({"x": 0.0, "n": 1, "group": {"w": jnp.zeros(3)}})


@refused("unknown", r"'group/z'", "its addresses: group/rate, group/w, n, x")
def unknown_address():
    model.assess(em.merge(CHOICES, {"group": {"z": 1.0}}))


@refused("wrong shape", r"'group/w'", r"float\d\d\[3\]", r"float\d\d\[1\]", HERE)
def broadcast_observation():
    model.assess({**CHOICES, "group": {"w": jnp.zeros(1), "rate": 1.0}})


@refused("wrong dtype", r"'n'", r"int\d\d\[\]", r"float\d\d\[\]")
def floating_count():
    model.assess({**CHOICES, "n": jnp.array(1.5)})


@refused("support", r"'group/rate'", "-1")
def negative_rate():
    model.assess({**CHOICES, "group": {"w": jnp.zeros(3), "rate": -1.0}})


@refused(
    "missing",
    "'x'",
    "wrong dtype",
    "'n'",
    "wrong shape",
    "'group/w'",
    "unknown",
    "'y'",
    "support",
    "'group/rate'",
)
def everything_wrong_at_once():
    model.assess({"y": 0.0, "n": jnp.array(0.5), "group": {"w": jnp.zeros(2), "rate": -2.0}})


@refused("'x'", "not an array")
def something_that_is_no_array():
    model.assess({**CHOICES, "x": "zero"})


@refused("'x'", "twice", f"{HERE}(.|\n)*{HERE}")
def duplicate_address():
    def program():
        em.sample("x", dist.Normal(0.0, 1.0))
        em.sample("x", dist.Normal(0.0, 1.0))

    simulate(program)


@refused("'x'", "twice")
def a_factor_and_a_site_of_one_name():
    def program():
        em.sample("x", dist.Normal(0.0, 1.0))
        em.factor("x", 0.0)

    simulate(program)


@refused("'a/x'", "twice")
def a_scope_around_two_calls_of_one_helper():
    def program():
        helper = jax.jit(lambda: em.sample("x", dist.Normal(0.0, 1.0)))
        with em.scope("a"):
            return helper() + helper()

    simulate(program)


@refused("'a'", "'a/x'")
def an_address_that_is_also_a_group():
    def program():
        em.sample("a", dist.Normal(0.0, 1.0))
        with em.scope("a"):
            em.sample("x", dist.Normal(0.0, 1.0))

    simulate(program)


@refused("anonymous", "program", HERE)
def anonymous_draw_in_simulate():
    def program():
        em.draw(dist.Normal(0.0, 1.0))

    simulate(program)


@refused("anonymous", "program", HERE)
def anonymous_draw_in_assess():
    def program():
        em.draw(dist.Normal(0.0, 1.0))

    em.gen(program).assess({})


@refused("'x'", "while_loop", HERE)
def named_site_in_a_while_loop():
    def program():
        def step(s):
            return s + em.sample("x", dist.Normal(1.0, 1.0))

        return lax.while_loop(lambda s: s < 3.0, step, 0.0)

    simulate(program)


@refused("while_loop", "predicate")
def site_in_the_predicate_of_a_while_loop():
    em.seed(
        lambda: lax.while_loop(lambda s: em.draw(dist.Bernoulli(0.5)) == 1, lambda s: s + 1, 0)
    )(jax.random.key(0))


def one_branch(u):
    return lax.cond(u > 0, lambda: em.sample("x", dist.Normal(u, 1.0)), lambda: u)


@refused("'x'", "vmap", "cond", HERE)
def vmap_of_a_cond_in_simulate():
    simulate(lambda: jax.vmap(one_branch)(LEVELS))


@refused("'x'", "vmap", "cond", HERE)
def vmap_of_a_cond_in_assess():
    em.gen(lambda: jax.vmap(one_branch)(LEVELS)).assess({"x": jnp.zeros(3)})


@refused("'x'", "vmap", "cond")
def vmap_of_a_switch():
    def lane(z):
        return lax.switch(
            z, [lambda: em.sample("x", dist.Normal(0.0, 1.0)), lambda: 0.0, lambda: 1.0]
        )

    simulate(lambda: jax.vmap(lane)(jnp.arange(3)))


@refused("'x'", "vmap", "cond")
def scan_of_a_vmap_of_a_cond():
    simulate(lambda: lax.scan(lambda c, _: (c, jax.vmap(one_branch)(LEVELS)), 0, length=2))


@refused("'x'", "vmap", "cond")
def vmap_of_a_cond_with_a_jit_in_its_branch():
    inner = jax.jit(lambda u: em.sample("x", dist.Normal(u, 1.0)))
    simulate(lambda: jax.vmap(lambda u: lax.cond(u > 0, inner, lambda u: u, u))(LEVELS))


@refused("'x'", "vmap", "cond")
def vmap_of_a_cond_with_a_jit_in_its_branch_that_was_mapped_before():
    helper = jax.jit(lambda u: em.sample("x", dist.Normal(u, 1.0)))

    def program():
        with em.scope("a"):
            jax.vmap(helper)(LEVELS)
        with em.scope("b"):
            return jax.vmap(lambda u: lax.cond(u > 0, helper, lambda u: u, u))(LEVELS)

    simulate(program)


@refused("'x'", "branches", "disagree", HERE)
def one_address_of_two_shapes_in_exclusive_branches():
    def program():
        b = em.sample("b", dist.Bernoulli(0.5))

        def wide():
            return em.sample("x", dist.Normal(0.0, 1.0).expand([2])).sum()

        return lax.cond(b == 1, wide, lambda: em.sample("x", dist.Normal(0.0, 1.0)))

    simulate(program)


def plain():
    return em.sample("x", dist.Normal(0.0, 1.0))


NO_INTERPRETER = ("'x'", HERE, r"em\.seed", "simulate", r"em\.expectation")


@refused(*NO_INTERPRETER)
def site_in_a_plain_call():
    plain()


@refused(*NO_INTERPRETER)
def site_in_jit():
    jax.jit(plain)()


@refused(*NO_INTERPRETER)
def site_in_grad():
    jax.grad(lambda u: em.sample("x", dist.Normal(u, 1.0)))(0.0)


@refused(*NO_INTERPRETER)
def site_in_vmap():
    jax.vmap(lambda u: em.sample("x", dist.Normal(u, 1.0)))(LEVELS)


@refused(r"em\.merge", "'enc/z'", "twice")
def overlapping_choices():
    em.merge({"enc": {"z": 1.0}}, {"enc": {"z": 2.0}})


@refused(r"em\.merge", "'z'", "twice")
def a_choice_merged_with_a_group():
    em.merge({"z": {"a": 1.0}}, {"z": 2.0})


@refused("name", "''")
def a_site_without_a_name():
    em.seed(lambda: em.sample("", dist.Normal(0.0, 1.0)))(jax.random.key(0))


@refused("'x'", "distribution", "function|type|float")
def a_site_without_a_distribution():
    em.seed(lambda: em.sample("x", 1.0))(jax.random.key(0))


@refused("differentiable", "Bernoulli", HERE)
def gradient_of_a_seeded_discrete_draw():
    run = em.seed(lambda p: em.draw(dist.Bernoulli(probs=p)).astype(float) * p)
    jax.grad(lambda p: run(jax.random.key(0), p))(0.5)


@refused("derivative rule|custom", "inside")
def gradient_of_a_seeded_site_inside_a_custom_rule():
    @jax.custom_jvp
    def inside(u):
        return u + em.draw(dist.Normal(0.0, 1.0))

    inside.defjvp(lambda primals, tangents: (inside(*primals), 100 * tangents[0]))
    jax.grad(lambda u: em.seed(inside)(jax.random.key(0), u))(0.5)


@pytest.mark.parametrize("program, pieces", ROWS.values(), ids=ROWS)
def test_it_is_refused_by_name(program, pieces):
    with pytest.raises(em.EstimandError) as refusal:
        program()
    for piece in pieces:
        assert re.search(piece, str(refusal.value)), f"no {piece!r} in: {refusal.value}"
