"""Posterior samples, what is predicted from them, and their export to ArviZ."""

import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import estimand as em
from tests.evaluated import (
    KEY,
    MEANS,
    WEIGHTS,
    X,
    gaussian,
    mixture,
    narrow,
    posterior,
    walk,
    wide,
)
from tests.messages import check_message


def test_posterior_samples_by_enumeration_are_from_the_posterior():
    n = 4000
    draws = em.posterior_samples(
        mixture, {"seen": {"x": 2.0}}, MEANS, via=em.Enumerate(), key=KEY, num_samples=n, chunk=999
    )
    exact = np.exp(WEIGHTS - np.logaddexp.reduce(WEIGHTS))
    found = np.bincount(draws["k"], minlength=3) / n
    assert np.all(np.abs(found - exact) < 5 * np.sqrt(exact * (1 - exact) / n))


@pytest.mark.parametrize(
    "via, mean, variance",
    [
        (em.Importance(n=200), 0.5, 0.5),
        (em.Importance(posterior), 0.5, 0.5),
        (em.Importance(narrow), 0.5, 0.01),  # one particle: the proposal
        (em.Importance(), 0.0, 1.0),
    ],
)
def test_posterior_samples_by_importance_sampling(via, mean, variance):
    n = 2000
    draws = em.posterior_samples(gaussian, {"x": X}, via=via, key=KEY, num_samples=n, chunk=500)
    us = np.asarray(draws["u"])
    assert list(draws) == ["u"] and us.shape == (n,)
    assert abs(us.mean() - mean) < 5 * np.sqrt(variance / n)
    assert abs(us.var() / variance - 1.0) < 5 * np.sqrt(2 / n) + 0.02


def test_predictions_are_from_the_predictive_distribution():
    n = 4000
    u = 0.5 + 0.5**0.5 * jax.random.normal(KEY, (n,))
    drawn = em.posterior_predictive(gaussian, {"u": u}, key=jax.random.key(1), chunk=333)
    x = np.asarray(drawn["x"])
    assert abs(x.mean() - 0.5) < 5 * np.sqrt(1.5 / n)
    assert abs(x.var() / 1.5 - 1.0) < 5 * np.sqrt(2 / n)
    assert abs(np.mean((x - u) * (u - 0.5))) < 5 * np.sqrt(0.5 / n)  # each given its own row


def test_predictions_of_a_scan_of_scopes_and_of_new_arguments():
    z = jnp.arange(12.0).reshape(4, 3)
    drawn = em.posterior_predictive(walk, {"z": z}, 3, key=KEY, chunk=3)
    assert drawn["x"].shape == (4, 3) and np.all(np.abs(drawn["x"] - z) < 4.0)
    k = {"k": jnp.array([0, 2])}
    drawn = em.posterior_predictive(mixture, k, 1e3 * MEANS, key=KEY)
    assert np.all(np.abs(drawn["seen"]["x"] - np.array([-1e3, 3e3])) < 6.0)


def test_predictions_of_a_program_with_a_marginal_inside():
    inner = mixture.marginal(keep="seen", via=em.Enumerate())

    @em.gen
    def outer():
        u = em.sample("u", dist.Normal(0.0, 1.0))
        em.sample("y", dist.Normal(u + inner(MEANS)["seen"]["x"], 1.0))

    drawn = em.posterior_predictive(outer, {"u": jnp.zeros(5)}, key=KEY)
    assert drawn["seen"]["x"].shape == drawn["y"].shape == (5,)
    x = jnp.zeros(5)
    drawn = em.posterior_predictive(outer, {"u": x, "seen": {"x": x}}, key=KEY)
    assert list(drawn) == ["y"]
    with pytest.raises(em.EstimandError, match="'y', 'u' without 'seen/x'"):
        em.posterior_predictive(outer, {"y": x, "u": x}, key=KEY)


def test_the_chunk_changes_nothing():
    via = em.Importance(wide, n=20)

    def all_three(chunk):
        draws = em.posterior_samples(
            gaussian, {"x": X}, via=via, key=KEY, num_samples=20, chunk=chunk
        )
        drawn = em.posterior_predictive(gaussian, draws, key=KEY, chunk=chunk)
        evidence = em.log_marginal_likelihood(gaussian, {"x": X}, via=via, key=KEY, chunk=chunk)
        return evidence[:3], draws["u"], drawn["x"]

    whole = all_three(None)
    for a, b in zip(jax.tree.leaves(all_three(5)), jax.tree.leaves(whole), strict=True):
        assert np.allclose(a, b, rtol=1e-5)


@em.gen
def weighted():
    u = em.sample("u", dist.Normal(0.0, 1.0))
    em.factor("tilt", em.sample("x", dist.Normal(u, 1.0)))


PREDICT = {
    "nothing": (gaussian, {}),
    "no leading axis": (gaussian, {"u": 1.0}),
    "unlike leading axes": (gaussian, {"u": jnp.zeros(2), "x": jnp.zeros(3)}),
    "an unknown address": (gaussian, {"v": jnp.zeros(2)}),
    "what depends on the rest": (gaussian, {"x": jnp.zeros(2)}),
    "a factor of the rest": (weighted, {"u": jnp.zeros(2)}),
    "no model": (lambda: None, {"u": jnp.zeros(2)}),
}


@pytest.mark.parametrize("name", PREDICT)
def test_what_cannot_be_predicted_from(name):
    model, choices = PREDICT[name]
    predict = lambda: em.posterior_predictive(model, choices, key=KEY)  # noqa: E731
    check_message(f"predictions: {name}", predict)


def test_rows_of_another_shape_are_refused():
    with pytest.raises(em.EstimandError, match="'u' (.|\n)*wrong shape(.|\n)*the shape and dtype"):
        em.posterior_predictive(gaussian, {"u": jnp.zeros((2, 3))}, key=KEY)


def test_a_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    export = lambda: em.to_arviz(gaussian, {"u": jnp.zeros(3)}, {"x": X})  # noqa: E731
    check_message("arviz: no extra", export)


def test_export_to_arviz():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its own dependencies deprecate
        pytest.importorskip("arviz_base")
    k, x = jnp.array([0, 2, 1, 1]), jnp.array(2.0)
    predictive = em.posterior_predictive(mixture, {"k": k}, MEANS, key=KEY)
    export = lambda **more: em.to_arviz(  # noqa: E731
        mixture, {"k": k}, {"seen": {"x": x}}, MEANS, chunk=3, **more
    )
    tree = export(predictive=predictive)
    assert tree.posterior["k"].dims == ("chain", "draw")
    assert np.array_equal(tree.posterior["k"].values, k[None])
    assert tree.observed_data["seen.x"].values == 2.0
    assert np.array_equal(tree.posterior_predictive["seen.x"].values[0], predictive["seen"]["x"])
    exact = dist.Normal(MEANS[k], 1.0).log_prob(x)
    assert np.allclose(tree.log_likelihood["seen.x"].values[0], exact)
    assert "posterior_predictive" not in export()
    steps = em.to_arviz(walk, {"z": jnp.zeros((4, 3))}, {"x": jnp.ones(3)}, 3)
    assert steps.log_likelihood["x"].shape == (1, 4, 3)
    check_message("arviz: other predictions", export, predictive={"seen": {"x": jnp.zeros(3)}})
