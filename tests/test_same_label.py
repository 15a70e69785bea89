"""Several sites of one label: none of them is forgotten by the tools that go through labels."""

import dataclasses
import re

import jax
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from jax import lax

import estimand as em
from estimand.ppl.candidates import CANDIDATES, written

KEY = jax.random.key(0)
FAR = em.Score(baseline=500.0)


@dataclasses.dataclass(frozen=True)
class Broken(em.Score):
    def combine(self, law, values, f):
        return 1.3 * super().combine(law, values, f)


@dataclasses.dataclass(frozen=True)
class Biased(em.Score):
    biased: bool = True


def branches(yes, no):
    """Two sites of one label in exclusive branches, each with a strategy of its own."""

    @em.gen
    def guide(p):
        u = em.sample("u", dist.Bernoulli(0.5), via=em.Score())
        return lax.cond(
            u == 1,
            lambda: em.sample("x", dist.Bernoulli(p), via=yes),
            lambda: em.sample("x", dist.Bernoulli(p * p), via=no),
        )

    @em.expectation
    def objective(p):
        return 3.0 * guide.simulate(p).value.astype(float)

    return objective


FULL = pytest.mark.full


def lines(objective):
    """Where the two sites are, in the order in which they are written."""
    return sorted(set(re.findall(r"guide/x \((.*?)\)", objective.explain(0.4))))


@pytest.mark.parametrize("where", [0, pytest.param(1, marks=FULL)])
def test_a_biased_site_is_found_beside_a_good_one_of_its_label(where):
    pair = [em.Score(), em.Score()]
    pair[where] = Broken()
    objective = branches(*pair)
    opening = re.escape(f"site 'guide/x' ({lines(objective)[where]}): Broken() is biased")
    with pytest.raises(em.EstimandError, match="^" + opening):
        em.check_unbiased(objective, 0.4, key=KEY, num_samples=1024)


@FULL
def test_two_biased_sites_of_a_label_are_named_both():
    objective = branches(Broken(), Broken())
    with pytest.raises(em.EstimandError, match=r"Broken\(\) is biased") as found:
        em.check_unbiased(objective, 0.4, key=KEY, num_samples=1024)
    assert all(f"site 'guide/x' ({line})" in str(found.value) for line in lines(objective))


def test_only_the_site_with_the_strategy_of_the_reference_is_not_checked():
    objective = branches(FAR, em.Score())
    check = em.check_unbiased(objective, 0.4, key=KEY, num_samples=64)
    assert check.agrees and check.unchecked == (f"site 'guide/x' ({lines(objective)[1]})",)


def test_the_default_of_a_choice_is_the_program_as_it_is():
    objective = branches(FAR, em.Score())
    kept = em.choose(objective, 0.4, key=KEY, candidates=[em.LeaveOneOut(2)], num_samples=512)
    as_it_is = em.diagnose(objective, 0.4, key=KEY, strategies={"": {}}, num_samples=512).rows[0]
    np.testing.assert_allclose(kept.default.variance, as_it_is.gradient.trace, rtol=1e-5)
    assert (
        kept.default.variance > 1e5 and as_it_is.strategies["guide/x"] == "Score() / Score(500.0)"
    )
    assert "guide/x" not in kept.strategies and "Score() / Score(500.0)" in repr(kept)
    better = em.choose(objective, 0.4, key=KEY, candidates=[em.Score()], num_samples=512)
    assert better.strategies["guide/x"] == em.Score() and better.improvement > 1000


def test_a_biased_one_of_several_is_not_kept():
    objective = branches(Biased(), em.Score())
    choice = em.choose(objective, 0.4, key=KEY, candidates=[em.Score()], num_samples=64)
    assert choice.strategies["guide/x"] == em.Score()


def test_no_two_candidates_are_written_in_the_same_way():
    names = [written(strategy) for strategy in CANDIDATES]
    assert len(set(names)) == len(names)
    assert {"Rebar()", "Rebar(optimizer=...)", "Relax()"} <= set(names)
    assert written(em.Rebar(0.1, optax.adam(0.1))) == "Rebar(0.1, optimizer=...)"
    assert written(em.Score(em.LearnedBaseline(lambda w, d: w))) == "Score(LearnedBaseline(f=...))"


@FULL
def test_a_plain_and_a_tuned_rebar_are_two_rows():
    objective = em.expectation(lambda p: em.sample("x", dist.Bernoulli(p)).astype(float) ** 2)
    pair = [s for s in CANDIDATES if isinstance(s, em.Rebar)]
    choice = em.choose(objective, 0.3, key=KEY, candidates=pair, num_samples=64)
    assert "Rebar() " in repr(choice) and "Rebar(optimizer=...) " in repr(choice)
