"""Marginals and posteriors by importance sampling: the two laws of their densities.

E[Z] = p(x) where x is given, and E[1/Z | x] = 1/p(x) where it was drawn; the second is tested
under the joint law of x and Z: E[h(x) p(x) / Z] = E[h(x)] for several h.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from estimand.ppl.importance import Importance
from tests.cases.auxiliaries import AUXILIARIES, categorical, normal, normal_proposal
from tests.marks import by_default
from tests.statistics import assert_unbiased, enough

KEY = jax.random.key(0)


def statistics(marginal, log_p):
    """Of a key: Z / p at two x, and h(x) p / Z - h(x) of a draw for three h; all known."""

    def sample(key):
        given = [
            jnp.exp(em.seed(marginal.log_density)(key, {"x": x}) - log_p(x)) for x in (-0.5, 1.3)
        ]
        trace = em.seed(marginal.simulate)(key)
        x = trace.choices["x"]
        off = jnp.exp(log_p(x) - trace.log_density) - 1.0
        return jnp.stack([*given, off, off * jnp.where(x > 0.5, 1.0, 0.0), off * jnp.tanh(x)])

    return jax.jit(jax.vmap(sample))


LAWS = np.array([1.0, 1.0, 0.0, 0.0, 0.0])


CASES = [(a, p, n) for a in AUXILIARIES for p in ("prior", "proposal") for n in (1, 5, 50)]
TURNS = [("normal", "prior", 1), ("categorical", "proposal", 5), ("mixed", "proposal", 5)]


@pytest.mark.parametrize("name, proposed, n", by_default(CASES, *TURNS))
def test_the_estimates_of_densities_obey_both_laws(name, proposed, n):
    program, proposal, log_p = AUXILIARIES[name]
    via = em.Importance(proposal if proposed == "proposal" else None, n)
    sampler = statistics(program.marginal(keep="x", via=via), log_p)
    assert_unbiased(enough(sampler, LAWS, 0.1, batch=2**10), LAWS, 0.1)


class WithoutTheRunsOwn(Importance):
    """All particles are proposed, also where the run's own choices are known."""

    def log_evidence(self, target, retained=None):
        return super().log_evidence(target)


class WithoutTheProposalsDensity(Importance):
    """The joint density in place of the weight."""

    def _weight(self, target, run):
        return run.log_density

    def log_evidence(self, target, retained=None):
        if retained is None:
            return target.joint(target.propose({}).choices)
        return super().log_evidence(target, retained)


@pytest.mark.parametrize("twin", [WithoutTheRunsOwn, WithoutTheProposalsDensity])
def test_broken_estimates_are_caught(twin):
    program, proposal, log_p = AUXILIARIES["normal"]
    marginal = program.marginal(keep="x", via=twin(proposal, 2))
    samples = statistics(marginal, log_p)(jax.random.split(KEY, 2**16))
    with pytest.raises(AssertionError, match="the mean is"):
        assert_unbiased(samples, LAWS, 1e3)


def test_a_proposal_that_is_the_posterior_gives_the_density_itself():
    @em.gen
    def posterior(given):
        precision = 1 / 1.2**2 + 0.6**2
        mean = (0.5 / 1.2**2 + 0.6 * given["x"]) / precision
        em.sample("u", dist.Normal(mean, precision**-0.5))

    marginal = normal.marginal(drop="u", via=em.Importance(posterior))
    _, _, log_p = AUXILIARIES["normal"]
    for key in jax.random.split(KEY, 3):
        assert np.allclose(em.seed(marginal.log_density)(key, {"x": 0.7}), log_p(0.7), atol=1e-5)
        trace = em.seed(marginal.simulate)(key)
        assert np.allclose(trace.log_density, log_p(trace.choices["x"]), atol=1e-5)


@em.gen
def local(mean):
    k = em.sample("k", dist.Bernoulli(0.3))
    em.sample("x", dist.Normal(mean + 2.0 * k.astype(float), 1.0))


def local_density(x, mean):
    return 0.7 * jnp.exp(_log(x - mean)) + 0.3 * jnp.exp(_log(x - mean - 2.0))


def _log(x):
    return dist.Normal(0.0, 1.0).log_prob(x)


def everywhere(marginal):
    """A program that calls a marginal in a vmap, in a scan and in a cond."""

    @em.gen
    def program(means):
        with em.scope("plate"):
            xs = jax.vmap(marginal)(means)["x"]

        def step(last, _):
            x = marginal(last)["x"]
            return 0.5 * x, None

        with em.scope("chain"):
            last, _ = lax.scan(step, 0.0, None, length=3)
        with em.scope("branch"):
            z = lax.cond(last > 0, lambda: marginal(1.0)["x"], lambda: marginal(-1.0)["x"])
        em.sample("y", dist.Normal(jnp.sum(xs) + z, 1.0))

    return program


CHOICES = {
    "plate": {"x": jnp.array([0.3, -0.8])},
    "chain": {"x": jnp.array([1.0, -0.2, 0.9])},
    "branch": {"x": jnp.array(1.5)},
    "y": jnp.array(0.4),
}
MEANS = jnp.array([0.0, 1.0])


def everywhere_density(choices, means):
    p = jnp.prod(local_density(choices["plate"]["x"], means))
    last = 0.0
    for x in choices["chain"]["x"]:
        p, last = p * local_density(x, last), 0.5 * x
    z = choices["branch"]["x"]
    p = p * local_density(z, jnp.where(last > 0, 1.0, -1.0))
    return p * jnp.exp(_log(choices["y"] - jnp.sum(choices["plate"]["x"]) - z))


TWO = em.Importance(n=2)
NESTED = {
    "importance": everywhere(local.marginal(keep="x", via=em.Importance(n=4))),
    "enumerated": everywhere(local.marginal(keep="x", via=em.Enumerate())),
    "a marginal of marginals": everywhere(
        local.marginal(keep="x", via=em.Importance(n=2))
    ).marginal(keep=("plate", "chain", "branch", "y"), via=em.Importance()),
}


@pytest.mark.legs
@pytest.mark.parametrize("name", by_default(list(NESTED), "importance"))
def test_marginals_nest_in_programs(name):
    program = NESTED[name]
    exact = everywhere_density(CHOICES, MEANS)

    def sample(key):
        assessed = em.seed(program.log_density)(key, CHOICES, MEANS)
        trace = em.seed(program.simulate)(key, MEANS)
        drawn = jnp.log(everywhere_density(trace.choices, MEANS)) - trace.log_density
        return jnp.stack([jnp.exp(assessed) / exact, jnp.exp(drawn)])

    samples = enough(jax.jit(jax.vmap(sample)), np.ones(2), 0.1)
    assert_unbiased(samples, np.ones(2), 0.1)


def test_a_marginal_has_one_term_for_its_choices_and_returns_them():
    program = NESTED["importance"]
    trace = em.seed(program.simulate)(KEY, MEANS)
    terms = trace.log_densities
    assert terms["plate"]["local.marginal"].shape == (2,)
    assert terms["chain"]["local.marginal"].shape == (3,)
    total = sum(jnp.sum(x) for x in jax.tree.leaves(terms))
    assert np.allclose(total, trace.log_density, rtol=1e-6)
    marginal = local.marginal(keep="x")
    value = em.seed(marginal.simulate)(KEY, 0.0).value
    assert value.keys() == {"x"}


def test_a_gradient_through_a_marginal_is_unbiased():
    """Of E[x log p(x)] with p estimated: E over its auxiliary choice too, by every strategy."""
    x = jnp.array([0.3, 1.9])

    @em.expectation
    def likelihood(theta):
        density = local.marginal(keep="x", via=em.Importance(n=3)).log_density
        return jnp.sum(jax.vmap(lambda x: jnp.exp(density({"x": x}, theta)))(x))

    exact = jax.value_and_grad(lambda t: jnp.sum(local_density(x, t)))(0.4)
    for strategy in (em.Enumerate(), em.Score(), em.LeaveOneOut(2)):
        objective = likelihood.using({"local.marginal/k": strategy})
        sampler = jax.jit(jax.vmap(lambda key, o=objective: o.value_and_grad(key, 0.4)))
        assert_unbiased(enough(sampler, exact, 0.05), exact, 0.05)


def test_a_posterior_tends_to_the_posterior_and_its_density_is_that_of_its_sampler():
    """E[p(x, u) / q(u)] over draws is p(x): q's estimate is that of the sampler's own law."""
    program, proposal, log_p = AUXILIARIES["normal"]
    posterior = program.normalize({"x": 1.0}, via=em.Importance(proposal, 4))

    def sample(key):
        trace = em.seed(posterior.simulate)(key)
        joint = program.log_density({**trace.choices, "x": 1.0})
        return jnp.exp(joint - trace.log_density - log_p(1.0))

    assert_unbiased(enough(jax.jit(jax.vmap(sample)), 1.0, 0.05), 1.0, 0.05)
    many = program.normalize({"x": 1.0}, via=em.Importance(proposal, 400))
    draws = jax.jit(jax.vmap(lambda k: em.seed(many)(k)["u"]))(jax.random.split(KEY, 4_000))
    precision = 1 / 1.2**2 + 0.6**2
    mean, error = (0.5 / 1.2**2 + 0.6) / precision, (precision * 4_000) ** -0.5
    assert abs(draws.mean() - mean) < 5 * error + 0.01


def test_explain_says_what_an_estimated_density_makes_of_the_objective():
    marginal = normal.marginal(keep="x", via=em.Importance(normal_proposal, 5))

    @em.expectation
    def bound():
        q = marginal.simulate()
        return _log(q.choices["x"]) - q.log_density

    text = bound.explain()
    assert "log density of normal.marginal, simulated: log Z by importance sampling, n=5" in text
    assert "E[1/Z] = 1/p" in text
    exact = em.expectation(
        lambda: categorical.marginal(keep="x", via=em.Enumerate()).log_density({"x": 1.0})
    )
    assert "log Z" not in exact.explain()


@em.gen
def impossible(t):
    k = em.sample("k", dist.Bernoulli(0.5))
    em.sample("y", dist.Normal(t * k.astype(float), 1.0))
    em.sample(
        "x",
        dist.Categorical(jnp.where(k == 1, jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 1.0, 0.0]))),
    )


SEEN = {"x": 2, "y": 0.3}  # no k can be followed by x = 2


def test_weights_that_are_all_zero_give_minus_infinity_and_a_derivative_of_zero():
    for via in (em.Importance(n=3), em.Enumerate(), em.SMC(3)):
        density = em.seed(impossible.marginal(keep=("x", "y"), via=via).log_density)
        value, slope = jax.value_and_grad(lambda t, f=density: f(KEY, SEEN, t))(0.4)
        assert value == -jnp.inf and slope == 0
        posterior = em.seed(impossible.normalize(SEEN, via=via).simulate)(KEY, 0.4)
        assert not np.isfinite(posterior.log_density)


@pytest.mark.legs
def test_one_may_keep_everything():
    whole = normal.marginal(keep=("u", "x"), via=em.Importance(n=3))
    choices = {"u": 0.3, "x": 1.0}
    assert np.allclose(em.seed(whole.log_density)(KEY, choices), normal.log_density(choices))
