"""The evidence and its standard error, in bounded memory."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import estimand as em
from estimand.ppl.evaluation.evidence import evidence_of
from estimand.transforms.jaxprs import close, subjaxprs
from tests.evaluated import (
    KEY,
    LOG_Z,
    MEANS,
    WEIGHTS,
    X,
    gaussian,
    mixture,
    narrow,
    posterior,
    wide,
)
from tests.messages import check_message

FAR = 10.0 * float(jnp.finfo(jnp.zeros(()).dtype).max) ** 0.5  # whose square is infinite


def evidence(via=None, x=X, key=KEY, **more):
    return em.log_marginal_likelihood(gaussian, {"x": x}, via=via, key=key, **more)


@pytest.mark.parametrize("proposal", [None, wide])
def test_evidence_is_within_its_standard_errors_of_the_closed_form(proposal):
    found = evidence(em.Importance(proposal, n=2000), chunk=500)
    assert abs(found.value - LOG_Z) < 5 * found.standard_error + 1e-5
    assert found.standard_error < 0.05 and found.num_weights == 2000


def test_evidence_of_a_proposal_that_is_the_posterior_is_exact():
    found = evidence(em.Importance(posterior, n=30))
    assert np.allclose(found.value, LOG_Z, atol=1e-5) and found.standard_error < 1e-5
    assert np.allclose(found.effective_sample_size, 30.0)
    assert found.pareto_k == -jnp.inf  # what differs is rounding


def test_evidence_by_enumeration_is_exact():
    found = em.log_marginal_likelihood(
        mixture, {"seen": {"x": 2.0}}, MEANS, via=em.Enumerate(), key=KEY, num_runs=3
    )
    assert np.allclose(found.value, np.logaddexp.reduce(WEIGHTS), rtol=1e-5)
    assert (found.standard_error, found.effective_sample_size, found.num_weights) == (0, 1, 1)


def test_evidence_of_all_choices_and_of_none():
    every = em.log_marginal_likelihood(gaussian, {"x": X, "u": 0.3}, key=KEY)
    assert np.allclose(every.value, gaussian.log_density({"x": X, "u": 0.3}), rtol=1e-5)

    @em.gen
    def tilted():
        em.factor("tilt", 2.0 * em.sample("u", dist.Normal(0.0, 1.0)))

    nothing = em.log_marginal_likelihood(tilted, {}, via=em.Importance(n=2000), key=KEY)
    assert abs(nothing.value - 2.0) < 5 * nothing.standard_error < 1.0  # E exp(2 u) = exp(2)


def test_standard_errors_cover_the_truth():
    n, replicates = 500, 400
    one = lambda key: evidence(em.Importance(n=n), key=key)[:2]  # noqa: E731
    value, error = jax.jit(jax.vmap(one))(jax.random.split(KEY, replicates))
    away = np.abs(np.asarray(value) - LOG_Z) / np.asarray(error)
    spread = 4 * np.sqrt(replicates * 0.95 * 0.05)
    assert abs(np.sum(away < 1.96) - 0.95 * replicates) < spread
    assert abs(np.sum(away < 0.7 * 1.96) - 0.95 * replicates) > spread  # the test can tell


def test_what_is_reported_is_what_its_formulas_say():
    log_weights = np.log([0.1, 0.4, 2.0, 0.0, 0.7], where=[1, 1, 1, 0, 1], out=np.full(5, -np.inf))
    w = np.exp(log_weights)
    found = evidence_of(jnp.asarray(log_weights - 300.0, float))  # which exp takes to zero
    assert np.allclose(found.value, np.log(w.mean()) - 300.0)
    assert np.allclose(found.standard_error, w.std(ddof=1) / (w.mean() * 5**0.5), rtol=1e-4)
    assert np.allclose(found.effective_sample_size, w.sum() ** 2 / (w**2).sum(), rtol=1e-4)


def test_one_particle_has_no_standard_error_and_few_have_no_pareto_k():
    one = evidence()
    assert np.isnan(one.standard_error) and one.effective_sample_size == 1.0
    assert np.isnan(evidence_of(jnp.arange(24.0)).pareto_k)
    assert np.isfinite(evidence_of(jnp.arange(25.0)).pareto_k)


def test_runs_of_importance_sampling_are_further_particles():
    runs = evidence(em.Importance(n=5), num_runs=4)
    assert np.array_equal(runs[:3], evidence(em.Importance(n=20))[:3]) and runs.num_weights == 20


def test_other_methods_have_a_standard_error_between_runs():
    found = evidence(em.SMC(10), num_runs=200, chunk=50)
    assert found.num_weights == 200 and found.standard_error < 0.05
    assert abs(found.value - LOG_Z) < 5 * found.standard_error
    assert np.isnan(evidence(em.SMC(10)).standard_error)


def largest(jaxpr):
    """The size of the largest array that a program makes."""
    inner = close(jaxpr).jaxpr
    sizes = [int(np.prod(v.aval.shape)) for eqn in inner.eqns for v in eqn.outvars]
    below = [largest(sub) for eqn in inner.eqns for sub in subjaxprs(eqn)]
    return max([*sizes, *below], default=0)


def test_memory_is_that_of_a_chunk():
    n, width = 10_000, 1_000

    @em.gen
    def data():
        u = em.sample("u", dist.Normal(0.0, 1.0))
        em.sample("x", dist.Normal(u * jnp.ones(width), 1.0))

    observed, via = {"x": jnp.zeros(width)}, em.Importance(n=n)
    for chunk, most in ((10, 10 * width), (None, n * width)):
        whole = jax.make_jaxpr(
            lambda key, chunk=chunk: em.log_marginal_likelihood(
                data, observed, via=via, key=key, chunk=chunk
            )
        )(KEY)
        assert most <= largest(whole) <= max(most, 10 * n)
    latent = {"u": jnp.zeros(n)}
    drawn = lambda key: jnp.mean(  # noqa: E731
        em.posterior_predictive(data, latent, key=key, chunk=10)["x"]
    )
    inside = [
        largest(sub)
        for eqn in close(jax.make_jaxpr(drawn)(KEY)).jaxpr.eqns
        for body in subjaxprs(eqn)
        for loop in close(body).jaxpr.eqns
        if loop.primitive.name == "scan"
        for sub in subjaxprs(loop)
    ]
    assert inside and max(inside) <= 10 * width  # the result alone has all draws


def test_evidence_in_vmap_and_jit():
    xs = jnp.array([0.0, 1.0, -2.0])
    via = em.Importance(posterior, n=30)
    found = jax.jit(jax.vmap(lambda x: evidence(via, x=x, chunk=15)))(xs)
    assert np.allclose(found.value, -0.25 * xs**2 - 0.5 * np.log(4.0 * np.pi), atol=1e-5)


@contextlib.contextmanager
def warned(of):
    with pytest.warns(UserWarning, match=of) as seen:
        yield
    assert [w.filename for w in seen] == [__file__]
    assert "em.log_marginal_likelihood (test_evaluation.py:" in str(seen[0].message)


def test_evidence_that_is_not_to_be_trusted_is_warned_of():
    with warned(r"neither the value(.|\n)*pareto_k <= 0.7"):
        found = evidence(em.Importance(narrow, n=40_000), chunk=4000)
    assert found.pareto_k > 0.7  # 1 - 2 (1/10)^2, in the limit

    @em.gen
    def rare():
        u = em.sample("u", dist.Bernoulli(0.004))
        em.sample("x", dist.Normal(jnp.where(u == 1, 0.0, 9.0), 1.0))

    with warned("a few weights are most of the sum(.|\n)*5% of the weights"):
        em.log_marginal_likelihood(rare, {"x": 0.0}, via=em.Importance(n=2000), key=KEY)
    with warned("2000 weights of zero"):
        found = evidence(em.Importance(n=2000), x=FAR)
    assert found.value == -jnp.inf and found.effective_sample_size == 0.0
    assert np.isnan(found.standard_error) and np.isnan(found.pareto_k)


EVIDENCE = {
    "an unknown address": lambda: em.log_marginal_likelihood(gaussian, {"y": X}, key=KEY),
    "no choices": lambda: em.log_marginal_likelihood(gaussian, X, key=KEY),
    "no model": lambda: em.log_marginal_likelihood(gaussian.simulate, {"x": X}, key=KEY),
    "no method": lambda: evidence("prior"),
    "NaN in the data": lambda: evidence(em.Importance(n=30), x=np.nan),
    "a chunk of none": lambda: evidence(chunk=0),
    "no runs": lambda: evidence(num_runs=0),
    "no weights": lambda: em.psis(jnp.zeros((2, 3), jnp.float32)),
    "no samples": lambda: em.posterior_samples(gaussian, {"x": X}, key=KEY, num_samples=0),
    "no particle is possible": lambda: em.posterior_samples(
        gaussian, {"x": FAR}, via=em.Importance(n=3), key=KEY, num_samples=7
    ),
}


@pytest.mark.parametrize("name", EVIDENCE)
def test_what_is_refused(name):
    check_message(f"evaluation: {name}", EVIDENCE[name])
