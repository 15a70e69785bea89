"""What the language cannot mean is refused: by the site's name and line, with what to do instead.

What is said of each mistake is in `messages.txt`.
"""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax

import estimand as em
from tests.generative import LEVELS
from tests.messages import Programs, check_message

refused = Programs()


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


@refused
def missing_address():
    model.assess({"x": 0.0, "n": 1, "group": {"w": jnp.zeros(3)}})


@refused
def unknown_address():
    model.assess(em.merge(CHOICES, {"group": {"z": 1.0}}))


@refused
def broadcast_observation():
    model.assess({**CHOICES, "group": {"w": jnp.zeros(1), "rate": 1.0}})


@refused
def floating_count():
    model.assess({**CHOICES, "n": jnp.array(1.5)})


@refused
def negative_rate():
    model.assess({**CHOICES, "group": {"w": jnp.zeros(3), "rate": -1.0}})


@refused
def everything_wrong_at_once():
    model.assess({"y": 0.0, "n": jnp.array(0.5), "group": {"w": jnp.zeros(2), "rate": -2.0}})


@refused
def something_that_is_no_array():
    model.assess({**CHOICES, "x": "zero"})


@refused
def duplicate_address():
    def program():
        em.sample("x", dist.Normal(0.0, 1.0))
        em.sample("x", dist.Normal(0.0, 1.0))

    simulate(program)


@refused
def a_factor_and_a_site_of_one_name():
    def program():
        em.sample("x", dist.Normal(0.0, 1.0))
        em.factor("x", 0.0)

    simulate(program)


@refused
def a_scope_around_two_calls_of_one_helper():
    def program():
        helper = jax.jit(lambda: em.sample("x", dist.Normal(0.0, 1.0)))
        with em.scope("a"):
            return helper() + helper()

    simulate(program)


@refused
def an_address_that_is_also_a_group():
    def program():
        em.sample("a", dist.Normal(0.0, 1.0))
        with em.scope("a"):
            em.sample("x", dist.Normal(0.0, 1.0))

    simulate(program)


@refused
def anonymous_draw_in_simulate():
    def program():
        em.draw(dist.Normal(0.0, 1.0))

    simulate(program)


@refused
def anonymous_draw_in_assess():
    def program():
        em.draw(dist.Normal(0.0, 1.0))

    em.gen(program).assess({})


@refused
def named_site_in_a_while_loop():
    def program():
        def step(s):
            return s + em.sample("x", dist.Normal(1.0, 1.0))

        return lax.while_loop(lambda s: s < 3.0, step, 0.0)

    simulate(program)


@refused
def site_in_the_predicate_of_a_while_loop():
    em.seed(
        lambda: lax.while_loop(lambda s: em.draw(dist.Bernoulli(0.5)) == 1, lambda s: s + 1, 0)
    )(jax.random.key(0))


def one_branch(u):
    return lax.cond(u > 0, lambda: em.sample("x", dist.Normal(u, 1.0)), lambda: u)


@refused
def vmap_of_a_cond_in_simulate():
    simulate(lambda: jax.vmap(one_branch)(LEVELS))


@refused
def vmap_of_a_cond_in_assess():
    em.gen(lambda: jax.vmap(one_branch)(LEVELS)).assess({"x": jnp.zeros(3)})


@refused
def vmap_of_a_switch():
    def lane(z):
        return lax.switch(
            z, [lambda: em.sample("x", dist.Normal(0.0, 1.0)), lambda: 0.0, lambda: 1.0]
        )

    simulate(lambda: jax.vmap(lane)(jnp.arange(3)))


@refused
def scan_of_a_vmap_of_a_cond():
    simulate(lambda: lax.scan(lambda c, _: (c, jax.vmap(one_branch)(LEVELS)), 0, length=2))


@refused
def vmap_of_a_cond_with_a_jit_in_its_branch():
    inner = jax.jit(lambda u: em.sample("x", dist.Normal(u, 1.0)))
    simulate(lambda: jax.vmap(lambda u: lax.cond(u > 0, inner, lambda u: u, u))(LEVELS))


@refused
def vmap_of_a_cond_with_a_jit_in_its_branch_that_was_mapped_before():
    helper = jax.jit(lambda u: em.sample("x", dist.Normal(u, 1.0)))

    def program():
        with em.scope("a"):
            jax.vmap(helper)(LEVELS)
        with em.scope("b"):
            return jax.vmap(lambda u: lax.cond(u > 0, helper, lambda u: u, u))(LEVELS)

    simulate(program)


@refused
def vmap_of_a_cond_with_a_jit_of_a_jit_in_its_branch_that_was_mapped_before():
    inner = jax.jit(lambda u: em.sample("x", dist.Normal(u, 1.0)))
    helper = jax.jit(lambda u: inner(u))

    def program():
        with em.scope("a"):
            jax.vmap(helper)(LEVELS)
        with em.scope("b"):
            return jax.vmap(lambda u: lax.cond(u > 0, helper, lambda u: u, u))(LEVELS)

    simulate(program)


@refused
def vmap_of_a_cond_with_a_factor_in_its_branch():
    def lane(u):
        lax.cond(u > 0, lambda: em.factor("w", u), lambda: None)

    simulate(lambda: jax.vmap(lane)(LEVELS))


@refused
def one_address_of_two_shapes_in_exclusive_branches():
    def program():
        b = em.sample("b", dist.Bernoulli(0.5))

        def wide():
            return em.sample("x", dist.Normal(0.0, 1.0).expand([2])).sum()

        return lax.cond(b == 1, wide, lambda: em.sample("x", dist.Normal(0.0, 1.0)))

    simulate(program)


@refused.each()
def test_it_is_refused_by_name(name, program):
    check_message(name, program)
