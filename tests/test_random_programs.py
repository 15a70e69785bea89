"""Random programs under random mixtures of strategies: value and gradient against brute force.

Each program is compiled once and sampled until a bias of a tenth of its own size could be seen.
A program may be refused only where some multi-point site could be mixed or branched on, and only
a minority may be. Broken strategies are caught by the same check.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from jax import lax

import estimand as em
from tests import oracle
from tests.cases.table import MIN_BIAS
from tests.random_programs import OTHERS, THETA, VIA, Apply, Flip, Pick, Program, programs
from tests.statistics import assert_unbiased, enough_draws, scale

JUMP = "which is not continuous"  # what lies between the values decides a branch
REASONS = (
    JUMP,
    "it has several points, and the site is inside",
    "it looks between the values, and the site is inside",
    "too many points meet",
)


def assert_right(program, vias=VIA):
    """The mean over enough keys is the exact value and gradient."""
    theta = np.array(THETA)
    exact = oracle.expectation(program.exact, theta), oracle.gradient(program.exact, theta)
    min_bias = MIN_BIAS * scale(exact)
    samples = enough_draws(program.objective(vias), exact, min_bias, jnp.array(THETA))
    assert_unbiased(samples, exact, min_bias)


def sweep(count, vias=VIA):
    """`count` programs, of which those that are refused may be refused, and are a minority."""
    refused = []

    @settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(programs())
    def check(program):
        try:
            assert_right(program, vias)
        except em.EstimandError as refusal:
            known = any(reason in str(refusal) for reason in REASONS)
            able = program.may_be_refused() or (JUMP in str(refusal) and program.branches())
            assert known and able, f"{program} needs no refusal: {refusal}"
            refused.append(program)

    check()
    assert len(refused) < count / 4, f"{len(refused)} of {count} programs were refused"


def test_a_hundred_random_programs_are_unbiased():
    sweep(100)


def test_random_programs_of_the_other_strategies_are_unbiased():
    sweep(10, OTHERS)


@pytest.mark.full
def test_a_thousand_random_programs_of_the_other_strategies_are_unbiased():
    sweep(1_000, OTHERS)


@pytest.mark.full
def test_two_thousand_random_programs_are_unbiased():
    sweep(2_000)


class ScoreWithoutItsScore(em.Score):
    """The value is right, the derivative in the law's parameters is missing."""

    def combine(self, law, values, f):
        return f


class EnumerateWithEqualWeights(em.Enumerate):
    """Every point counts the same, whatever its probability."""

    def weights(self, law, values):
        return jnp.full_like(super().weights(law, values), 1 / len(values))


class EnumerateWithFixedWeights(em.Enumerate):
    """The value is right, the weights have no derivative."""

    def weights(self, law, values):
        return lax.stop_gradient(super().weights(law, values))


class MeasureValuedOfTheWrongSign(em.MeasureValued):
    """Differences the wrong way round, about the right value."""

    def combine(self, law, values, f):
        return 2 * f[0] - super().combine(law, values, f)


TWINS = {
    "score": (ScoreWithoutItsScore(),),
    "enumerate": (EnumerateWithEqualWeights(), EnumerateWithFixedWeights()),
    "measure": (MeasureValuedOfTheWrongSign(),),
}


@pytest.mark.parametrize(
    "via, twin", [(via, twin) for via, twins in TWINS.items() for twin in twins], ids=str
)
def test_a_broken_strategy_is_caught(via, twin):
    program = Program(
        (Flip((3,), via, True), Apply("reduce", "logsumexp", (4,)), Pick((5,), via, False))
    )
    assert_right(program)
    with pytest.raises(AssertionError, match="the mean is"):
        assert_right(program, {**VIA, via: twin})
