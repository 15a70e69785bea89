"""`diagnose` measures what is known in closed form, and shows it."""

import builtins
import json

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from estimand.ppl import diagnose as module
from estimand.ppl.measure import Estimator
from tests.cases.table import flip
from tests.messages import check_message

KEY = jax.random.key(0)
LOGIT, SLOPE = 0.4, 3.0


@em.expectation
def line(t):
    """E[c z] with logits 2 t: with Score its gradient is 2 c z (1 - s)."""
    z = em.sample("z", dist.Bernoulli(logits=2.0 * t["logit"]))
    return t["slope"] * z.astype(float)


THETA = {"logit": LOGIT / 2, "slope": SLOPE}
P = 1 / (1 + np.exp(-LOGIT))
STRATEGIES = {"score": em.Score(), "exact": {"z": em.Enumerate()}}


@pytest.fixture(scope="module")
def found():
    return em.diagnose(line, THETA, key=KEY, strategies=STRATEGIES, num_samples=4000)


def test_mean_and_variance_are_those_that_are_known(found):
    score = found.as_dict()["strategies"]["score"]["leaves"]["gradient['logit']"]
    assert score["num_samples"] == 4000
    known = {"mean": 2 * SLOPE * P * (1 - P), "variance": (2 * SLOPE * (1 - P)) ** 2 * P * (1 - P)}
    assert abs(score["mean"] - known["mean"]) < 5 * score["standard error"]
    variance = score["variance"]
    assert abs(variance["value"] - known["variance"]) < 5 * variance["standard error"]
    assert 0 < variance["standard error"] < 0.05 * known["variance"]
    assert np.isclose(score["snr"], abs(score["mean"]) / variance["value"] ** 0.5)


def test_the_gradient_at_a_site_is_that_before_the_chain_rule(found):
    for row in found.rows:
        at_site, leaf = row.sites["z.logits"], row.leaves["gradient['logit']"]
        np.testing.assert_allclose(2 * at_site.mean, leaf.mean, rtol=1e-5)
        np.testing.assert_allclose(4 * at_site.trace, leaf.trace, rtol=1e-5)


def test_enumeration_has_no_variance(found):
    exact = found.as_dict()["strategies"]["exact"]
    assert exact["variance"] == {"value": 0.0, "standard error": 0.0}
    assert exact["variance x FLOPs"]["value"] == 0.0 and exact["flops"] > 0
    assert exact["strategies"] == {"z": "Enumerate()"} and exact["seconds"] > 0
    np.testing.assert_allclose(exact["leaves"]["gradient['slope']"]["mean"], P, rtol=1e-5)


def test_the_numbers_are_written_as_json(found):
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()


def test_the_table_has_one_width_and_every_row(found):
    lines = repr(found).splitlines()
    assert lines[0].startswith("line (test_diagnose.py:") and "4000 gradients" in lines[0]
    overview = lines[2:5]
    ends = [row.rstrip()[:-1].rfind(" ") for row in overview]
    assert [row.split()[0] for row in overview] == ["strategies", "score", "exact"]
    assert len({len(row) for row in overview}) == 1 and min(ends) > 0
    assert repr(found).count("exact") == 4  # over all, two leaves, one parameter of a site


def test_the_figure_is_saved(found, tmp_path):
    figure = found.plot(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count("no variance") == 2  # one a panel
    figure.clear()


def test_a_missing_matplotlib_names_its_extra(found, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    check_message("diagnose: no matplotlib", found.plot)


@pytest.mark.full
def test_all_candidates_are_tried_and_those_that_do_not_fit_are_named(monkeypatch):
    candidates = (em.Pathwise(), em.MeasureValued(), em.Score(em.MovingAverage()))
    monkeypatch.setattr(module, "CANDIDATES", candidates)

    @em.expectation
    def count(rate):
        return em.draw(dist.Poisson(rate), via=em.Score()).astype(float)

    found = em.diagnose(count, 2.0, key=KEY)
    names = [row.name for row in found.rows]
    assert names == ["as it is", "MeasureValued()", "Score(MovingAverage())"]
    assert found.left_out == {"Pathwise()": "no site can have it"}
    assert "left out, Pathwise(): no site can have it" in repr(found)
    variances = [row.gradient.trace for row in found.rows]
    assert variances[0] > variances[2] > variances[1] == 0.0  # f(x + 1) - f(x) is one


def test_strategies_that_do_not_fit_are_refused_where_they_were_asked_for():
    def diagnosed(strategies):
        return em.diagnose(line, THETA, key=KEY, strategies=strategies)

    check_message("diagnose: pathwise flips", diagnosed, {"a": {"z": em.Pathwise()}})
    check_message("diagnose: pathwise nowhere", diagnosed, {"a": em.Pathwise()})


def test_only_what_the_arguments_move_has_a_row_and_sites_in_loops_have_none():
    @em.expectation
    def program(t, given):
        x = em.sample("x", dist.Normal(t, 1.0))
        em.sample("still", dist.Normal(given, 1.0))

        def step(total, p):
            return total + em.sample("inside", dist.Bernoulli(p)).astype(total.dtype), None

        return x**2 + lax.scan(step, x, jnp.full(40, 0.3) * t)[0]

    found = em.diagnose(program, 0.5, 1.0, key=KEY, strategies={"": {}}, num_samples=64)
    assert list(found.rows[0].sites) == ["x.loc"] and found.inside == ("inside",)
    assert "without rows, inside loops or branches: inside" in repr(found)


def test_lanes_and_nested_parameters_have_the_shape_of_the_site():
    @em.expectation
    def program(t):
        xs = jax.vmap(lambda p: em.sample("x", dist.Normal(p, t[0]).to_event(0)))(t)
        return jnp.exp(xs).sum() + jnp.sum(em.sample("y", dist.Normal(t, 1.0).to_event(1)))

    (row,) = em.diagnose(program, jnp.ones(3), key=KEY, strategies={"": {}}, num_samples=64).rows
    shapes = {name: m.mean.shape for name, m in row.sites.items()}
    assert shapes["y.base_dist.loc"] == (3,)
    assert set(shapes.values()) == {(3,), ()} and len(shapes) == 3


def test_the_body_of_a_scan_is_counted_once_a_step():
    def rows(n, inner=1):
        @em.expectation
        def program(t):
            def step(x, _):
                turns = lax.scan(lambda x, _: (jnp.sin(t @ x), None), x, None, length=inner)
                return turns[0], None

            x = lax.scan(step, jnp.ones(16), None, length=n)[0]
            return x.sum() * flip(t[0, 0], em.Score())

        return Estimator(program, (jnp.full((16, 16), 0.1),)).flops()

    one, ten, hundred = rows(1), rows(10), rows(100)
    np.testing.assert_allclose(hundred - ten, 10 * (ten - one), rtol=0.01)
    inner = [rows(n, 21) - rows(n, 1) for n in (10, 20)]
    np.testing.assert_allclose(inner[1], 2 * inner[0], rtol=0.01)
    assert ten - one > 9 * 3 * 2 * 16**2  # a product forward, and two back
