"""What is no marginal and no posterior, and what is said of it."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

import estimand as em
from tests.cases.auxiliaries import normal
from tests.messages import Programs, check_message

KEY = jax.random.key(0)
BAD = Programs()


@BAD
def a_proposal_of_other_addresses():
    @em.gen
    def proposal(given):
        em.sample("x", dist.Normal(0.0, 1.0))
        em.sample("v", dist.Normal(given["x"], 1.0))

    em.seed(normal.marginal(keep="x", via=em.Importance(proposal)).simulate)(KEY)


@BAD
def a_proposal_of_smaller_support():
    @em.gen
    def proposal(given):
        em.sample("u", dist.HalfNormal(1.0))

    em.seed(normal.marginal(keep="x", via=em.Importance(proposal)).simulate)(KEY)


@BAD
def a_proposal_of_another_shape():
    @em.gen
    def proposal(given):
        em.sample("u", dist.Normal(jnp.zeros(2), 1.0))

    em.seed(normal.normalize({"x": 1.0}, via=em.Importance(proposal)).simulate)(KEY)


@BAD
def a_proposal_that_is_a_plain_function():
    em.seed(normal.marginal(keep="x", via=em.Importance(lambda given: None)).simulate)(KEY)


@BAD
def an_unknown_address():
    em.seed(normal.marginal(keep="y").simulate)(KEY)


@BAD
def a_marginal_of_nothing():
    em.seed(normal.marginal(drop=("u", "x")).simulate)(KEY)


@BAD
def neither_keep_nor_drop():
    normal.marginal()


@BAD
def a_strategy_as_a_method():
    normal.marginal(keep="x", via=em.Score())


@BAD
def no_particles():
    em.Importance(n=0)


@BAD
def observing_what_is_not_there():
    em.seed(normal.normalize({"y": 1.0}).simulate)(KEY)


@BAD
def some_choices_of_a_marginal():
    pair = normal.marginal(keep=("u", "x"))
    em.seed(em.gen(lambda: pair()).marginal(keep="x").log_density)(KEY, {"x": 1.0})


@BAD
def no_interpreter():
    normal.marginal(keep="x")()


@BAD.each()
def test_a_mistake_is_named(name, program):
    check_message(f"marginals: {name}", program)
