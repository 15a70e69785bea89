"""Guides and models that disagree, in addresses, shapes or supports, stop while they are traced.

What is said of each mistake is in `messages.txt`; a program that is `fine` is of the same kind,
and no error is due.
"""

import jax.numpy as jnp
import numpyro.distributions as dist

import estimand as em
from tests.messages import Programs, check_message, trace

refused, fine = Programs(), Programs()


@refused.each()
def test_it_is_refused_and_says_where(name, program):
    check_message(name, trace, program)


@fine.each()
def test_it_is_fine(name, program):
    trace(program)


@em.gen
def model():
    a = em.sample("a", dist.Gamma(2.0, 1.0))
    with em.scope("plate"):
        em.sample("b", dist.Normal(a, 1.0).expand([3]))
    em.sample("data", dist.Poisson(a).expand([5]))


def elbo(guide, observed):
    def objective(t):
        q = em.gen(guide).simulate(t)
        return model.log_density(em.merge(q.choices, observed)) - q.log_density

    return objective


def right_guide(t):
    em.sample("a", dist.LogNormal(t[0], 1.0))
    with em.scope("plate"):
        em.sample("b", dist.Normal(t[1], 1.0).expand([3]))


def wrong_guide(t):
    em.sample("a", dist.Normal(t[0], 1.0))
    em.sample("b", dist.Normal(t[1], 1.0).expand([2]))
    em.sample("c", dist.Bernoulli(0.5))


def short_guide(t):
    em.sample("a", dist.LogNormal(t[0], 1.0))
    with em.scope("plate"):
        em.sample("b", dist.Normal(t[1], 1.0).expand([2]))


COUNTS = jnp.array([1, 0, 2, 1, 1])
fine["guide and model that agree"] = elbo(right_guide, {"data": COUNTS})
refused["a guide of other addresses"] = elbo(wrong_guide, {"data": COUNTS})
refused["a guide of another shape"] = elbo(short_guide, {"data": COUNTS})
refused["an observation of another shape"] = elbo(right_guide, {"data": COUNTS[:1]})
refused["an observation of another dtype"] = elbo(right_guide, {"data": COUNTS.astype(float) + 0.5})
refused["an observation of a latent"] = elbo(right_guide, {"data": COUNTS, "a": 1.0})
refused["a missing observation"] = elbo(right_guide, {})


def scored_by(model, guide):
    """An objective: a draw of one distribution, scored by another."""

    def objective(t):
        q = em.gen(lambda: em.sample("a", guide(t))).simulate()
        return em.gen(lambda: em.sample("a", model)).log_density(q.choices) - q.log_density

    return objective


PAIR = dist.Normal(0.0, 1.0).expand([2]).to_event(1)
refused["ordered reals for positive numbers"] = scored_by(
    dist.HalfNormal(1.0).expand([2]).to_event(1),
    lambda t: dist.TransformedDistribution(PAIR, dist.transforms.OrderedTransform()),
)
refused["a wider categorical in one lane"] = scored_by(
    dist.Categorical(logits=jnp.zeros((2, 4))),
    lambda t: dist.DiscreteUniform(jnp.array([0, 2]), jnp.array([3, 5])),
)
fine["a simplex for numbers between zero and one"] = scored_by(
    dist.Beta(2.0, 2.0).expand([2]).to_event(1), lambda t: dist.Dirichlet(t)
)


@refused
def a_guide_of_a_wider_support(t):
    def wide(t):
        em.sample("a", dist.Normal(t[0], 1.0))
        with em.scope("plate"):
            em.sample("b", dist.Normal(t[1], 1.0).expand([3]))

    return elbo(wide, {"data": COUNTS})(t)
