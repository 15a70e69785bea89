"""Every program of the table, under every strategy that applies: value and gradient are
unbiased.

Where nothing but enumerated sites is random there is no variance either: each single estimate
is the exact answer. A strategy with several points is refused, by name, inside what it cannot
enter.
"""

import jax.numpy as jnp
import pytest

import estimand as em
from tests.cases import CASES, SEVERAL_POINTS
from tests.statistics import draws


@pytest.mark.legs
@CASES.legs(thin=True)
def test_value_and_gradient_are_unbiased(case, strategy):
    if case.inside and strategy in SEVERAL_POINTS:
        with pytest.raises(em.EstimandError, match=f"several points(.|\\n)*inside a {case.inside}"):
            draws(case.objective(strategy()), 8, jnp.array(case.theta))
    else:
        case.hold(strategy)
