"""`check_unbiased` passes what is unbiased, with power, and names what is not."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from tests.cases.table import flip
from tests.messages import check_message

FULL = pytest.mark.full
KEY = jax.random.key(0)
THETA = {"a": jnp.array([0.3, 0.6]), "b": 0.4}


@dataclasses.dataclass(frozen=True)
class HalfScore(em.Score):
    """A broken twin: half of the score is lost; the value is right."""

    def combine(self, law, values, f):
        return 0.5 * super().combine(law, values, f) + 0.5 * f


@dataclasses.dataclass(frozen=True)
class Shifted(em.Pathwise):
    """A broken twin: values too large by a tenth."""

    def points(self, key, law):
        return law.sample(key) + 0.1


@dataclasses.dataclass(frozen=True)
class Leaky(em.Score):
    """A broken twin that is right until its baseline has learned: it is taken off where x = 1."""

    def control(self, law, values):
        return super().control(law, values) * values.astype(float)


def flips(t):
    """Three flips that meet in a product, and one apart."""
    x = em.sample("x", dist.Bernoulli(t["a"][0])).astype(float)
    y = em.sample("y", dist.Bernoulli(t["a"][1])).astype(float)
    z = em.sample("z", dist.Bernoulli(t["b"])).astype(float)
    return (1.0 + x) * (2.0 - y) * (1.0 + z) + x * t["b"]


def noisy(t):
    """Continuous sites beside a flip: nothing to enumerate."""
    x = em.sample("x", dist.Normal(t["a"][0], 0.5))
    y = em.sample("y", dist.Normal(t["a"][1] * x, 0.5))
    z = em.sample("z", dist.Bernoulli(t["b"])).astype(float)
    return x**2 + y * z + y**2


FLIPS, NOISY = em.expectation(flips), em.expectation(noisy)
GOOD = {"x": em.LeaveOneOut(), "y": em.Score(), "z": em.DisArm()}


def refused(name, fun, *args, **kwargs):
    """`check_message`, where the draws, and so the digits, depend on the precision."""

    def rounded():
        try:
            fun(*args, **kwargs)
        except em.EstimandError as problem:
            raise em.EstimandError(re.sub(r"\d+\.\d+", "NUMBER", str(problem))) from None

    check_message(name, rounded)


def good(exact):
    return em.check_unbiased(FLIPS.using(GOOD), THETA, key=KEY, exact=exact)


def test_unbiased_strategies_pass_beside_each_other_and_the_table_says_so():
    check = good(None)
    assert check.agrees and check.against == "exact enumeration" and check.num_samples == 4096
    assert [leaf.name for leaf in check.leaves] == ["value", "gradient['a']", "gradient['b']"]
    assert check.leaves[1].z.shape == (2,) and check.leaves[1].smallest_bias.shape == (2,)
    lines = repr(check).splitlines()
    assert "no bias was seen in 4096 estimates, against exact enumeration" in lines[0]
    assert len(lines) == 5 and lines[3].split()[0] == "gradient['a']"


def test_the_exact_answer_may_be_given():
    p, q, r = 0.3, 0.6, 0.4
    value = (1 + p) * (2 - q) * (1 + r) + p * r
    slopes = {
        "a": np.array([(2 - q) * (1 + r) + r, -(1 + p) * (1 + r)]),
        "b": (1 + p) * (2 - q) + p,
    }
    assert good((value, slopes)).agrees
    slopes["b"] += 1.0
    refused("check_unbiased: a wrong answer", good, (value, slopes))
    check_message("check_unbiased: another structure", good, (value, slopes["a"]))


@pytest.mark.parametrize("kind", [Leaky, pytest.param(em.Score, marks=FULL)])
def test_a_strategy_that_learns_is_checked_with_what_it_has_learned(kind):
    objective = FLIPS.using({"x": kind(em.MovingAverage()), "y": em.Score(), "z": em.Score()})
    if kind is em.Score:
        assert em.check_unbiased(objective, THETA, key=KEY).agrees
    else:
        with pytest.raises(em.EstimandError, match=r"Leaky\(MovingAverage\(\)\) is biased"):
            em.check_unbiased(objective, THETA, key=KEY)


@pytest.mark.parametrize(
    "site", ["y", pytest.param("x", marks=FULL), pytest.param("z", marks=FULL)]
)
def test_a_biased_strategy_is_found_among_good_ones(site):
    objective = FLIPS.using({**GOOD, site: HalfScore()})
    name = f"check_unbiased: half a score at {site}"
    refused(name, em.check_unbiased, objective, THETA, key=KEY)


@FULL
def test_all_biased_sites_are_named():
    objective = FLIPS.using({**GOOD, "x": HalfScore(), "z": HalfScore()})
    refused("check_unbiased: two sites", em.check_unbiased, objective, THETA, key=KEY)


def test_without_enumeration_another_strategy_is_the_reference():
    check = em.check_unbiased(NOISY, THETA, key=KEY)
    assert check.agrees and "x: Score()" in check.against and "z: Score()" in check.against


@FULL
@pytest.mark.parametrize("site, broken", [("x", Shifted()), ("y", Shifted()), ("z", HalfScore())])
def test_a_biased_strategy_is_found_without_enumeration(site, broken):
    objective = NOISY.using({"z": em.Enumerate(), site: broken})
    with pytest.raises(em.EstimandError) as found:
        em.check_unbiased(objective, THETA, key=KEY, num_samples=16_384)
    head = str(found.value).splitlines()[0]
    assert head.startswith(f"site '{site}' (test_check_unbiased.py:")
    assert f"{broken!r}".split("(")[0] in head and head.count("site '") == 1


def test_a_site_that_nothing_else_fits_is_named_and_not_called_checked():
    def loop(t):
        def step(total, p):
            return total + em.sample("inside", dist.Bernoulli(p)).astype(float), None

        return lax.scan(step, jnp.zeros(()), jnp.broadcast_to(t, 40))[0]

    one = em.expectation(loop)
    check_message("check_unbiased: no reference", em.check_unbiased, one, 0.3, key=KEY)
    two = em.expectation(lambda t: loop(t) + flip(t, em.Score()))
    check = em.check_unbiased(two, 0.3, key=KEY, num_samples=64)
    assert check.agrees and [where.split()[1] for where in check.unchecked] == ["'inside'"]
    assert "not checked, its own reference: site 'inside'" in repr(check)


@FULL
def test_a_bias_of_the_size_that_the_table_says_is_seen():
    """And one of a tenth of it is not: the power is neither over- nor understated."""

    @dataclasses.dataclass(frozen=True)
    class Off(em.Score):
        by: float = 0.0

        def combine(self, law, values, f):
            return super().combine(law, values, f) + self.by

    def check(by):
        return em.check_unbiased(FLIPS.using({"x": Off(by=by)}), THETA, key=KEY)

    visible = float(check(0.0).leaves[0].smallest_bias)
    assert check(visible / 10).agrees
    with pytest.raises(em.EstimandError, match="value is off by"):
        check(visible)


def test_rounding_is_no_bias_and_not_a_number_is():
    exact = FLIPS.using({name: em.Enumerate() for name in "xyz"})
    check = em.check_unbiased(exact, THETA, key=KEY, num_samples=64)
    assert all(abs(leaf.worst) < 1 and leaf.smallest_bias.max() < 0.01 for leaf in check.leaves)
    bad = em.expectation(lambda t: flip(t, em.Score()) * jnp.log(-t))
    with pytest.raises(em.EstimandError, match="nan"):
        em.check_unbiased(bad, 0.3, key=KEY, num_samples=64)


def test_arguments_that_do_not_move_and_empty_ones():
    @em.expectation
    def program(n, t):
        return jnp.sum(jax.vmap(lambda p: flip(p, em.Score()))(t["p"][:n])) * t["c"]

    given = {"p": jnp.full(4, 0.3), "c": 2.0, "none": jnp.zeros(0), "label": "a", "k": 3}
    check = em.check_unbiased(program, 2, given, key=KEY, argnums=(1,), num_samples=256)
    names = [leaf.name for leaf in check.leaves]
    assert names == ["value", "gradient[0]['c']", "gradient[0]['none']", "gradient[0]['p']"]
    assert check.leaves[2].worst == 0.0


def test_it_is_called_plainly():
    traced = jax.jit(lambda t: em.check_unbiased(FLIPS, t, key=KEY).leaves[0].z)
    check_message("check_unbiased: inside jit", traced, THETA)
    check_message("check_unbiased: no objective", em.check_unbiased, flips, THETA, key=KEY)
