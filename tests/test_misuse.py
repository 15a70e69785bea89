"""Words of the language used where they mean nothing, or with what they cannot take.

What is said of each mistake is in `messages.txt`.
"""

import re

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax

import estimand as em
from tests.generative import LEVELS
from tests.messages import Programs, catalogue, check_message
from tests.numpyro_table import REFUSED
from tests.test_refusals import CHOICES, model

refused = Programs()


def plain():
    return em.sample("x", dist.Normal(0.0, 1.0))


@refused
def site_in_a_plain_call():
    plain()


@refused
def site_in_jit():
    jax.jit(plain)()


@refused
def site_in_grad():
    jax.grad(lambda u: em.sample("x", dist.Normal(u, 1.0)))(0.0)


@refused
def site_in_vmap():
    jax.vmap(lambda u: em.sample("x", dist.Normal(u, 1.0)))(LEVELS)


@refused
def overlapping_choices():
    em.merge({"enc": {"z": 1.0}}, {"enc": {"z": 2.0}})


@refused
def a_choice_merged_with_a_group():
    em.merge({"z": {"a": 1.0}}, {"z": 2.0})


@refused
def a_nested_and_a_flat_form_of_one_address():
    em.merge({"enc": {"z": 1.0}}, {"enc/z": 2.0})


@refused
def a_trace_for_choices():
    model.assess(em.seed(model.simulate)(jax.random.key(0)))


@refused
def nothing_for_a_choice():
    model.assess({**CHOICES, "x": None})


@refused
def a_site_without_a_name():
    em.seed(lambda: em.sample("", dist.Normal(0.0, 1.0)))(jax.random.key(0))


@refused
def a_site_without_a_distribution():
    em.seed(lambda: em.sample("x", 1.0))(jax.random.key(0))


@refused
def a_draw_without_a_sampler():
    law = dist.ImproperUniform(dist.constraints.real, (), ())
    em.seed(lambda: em.sample("x", law))(jax.random.key(0))


@refused
def a_distribution_with_arrays_among_its_statics():
    make, _, _ = REFUSED["EulerMaruyama"]
    with jax.numpy_dtype_promotion("standard"):
        em.seed(lambda: em.sample("x", make(0.5)))(jax.random.key(0))


@refused
def a_site_of_a_class():
    em.seed(lambda: em.sample("x", dist.Normal))(jax.random.key(0))


@refused
def a_key_in_the_wrong_place():
    em.seed(model.simulate)(3)


@refused
def several_keys_for_one():
    em.seed(model.simulate)(jax.random.split(jax.random.key(0)))


@refused
def a_baseline_that_is_an_array():
    em.Score(baseline=jnp.ones(2))


@refused
def a_cap_of_nothing():
    em.Enumerate(cap=0)


@refused
def a_site_inside_an_operation_without_a_rule():
    def solve(matvec, b):
        return b + em.draw(dist.Normal(0.0, 1.0))

    em.seed(lambda: lax.custom_linear_solve(lambda x: x, 1.0, solve, solve))(jax.random.key(0))


@refused
def gradient_of_a_seeded_discrete_draw():
    run = em.seed(lambda p: em.draw(dist.Bernoulli(probs=p)).astype(float) * p)
    jax.grad(lambda p: run(jax.random.key(0), p))(0.5)


@refused
def gradient_of_a_seeded_site_inside_a_custom_rule():
    @jax.custom_jvp
    def inside(u):
        return u + em.draw(dist.Normal(0.0, 1.0))

    inside.defjvp(lambda primals, tangents: (inside(*primals), 100 * tangents[0]))
    jax.grad(lambda u: em.seed(inside)(jax.random.key(0), u))(0.5)


@refused.each()
def test_it_is_refused(name, program):
    check_message(name, program)


def test_every_message_says_where_what_was_expected_what_was_got_and_what_to_do():
    for name, text in catalogue().items():
        for piece in (r"\.py:LINE", "expected: ", "got: ", "remedy: "):
            assert re.search(piece, text), f"no {piece!r} in what is said of {name}"
