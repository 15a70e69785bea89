"""The power rule itself: it passes what is right, and fails what is biased, underpowered, not
finite or misshapen.
"""

import numpy as np
import pytest

from tests.statistics import assert_exact, assert_unbiased, needed

EXACT = {"a": 1.0, "b": np.array([2.0, -3.0])}


def samples(n, bias=0.0, sd=2.0):
    noise = np.random.default_rng(0).normal(size=(n, 3))
    return {
        "a": 1.0 + sd * noise[:, 0],
        "b": np.array([2.0, -3.0]) + sd * noise[:, 1:] + [0.0, bias],
    }


def test_an_unbiased_estimator_passes():
    assert_unbiased(samples(10_000), EXACT, min_bias=0.2)


def test_a_broken_estimator_fails_by_name_of_its_leaf():
    with pytest.raises(AssertionError, match=r"\['b'\]: the mean is"):
        assert_unbiased(samples(10_000, bias=0.2), EXACT, min_bias=0.2)


def test_a_test_without_power_fails_also_when_the_mean_is_right():
    with pytest.raises(AssertionError, match="cannot be seen with 1000 samples"):
        assert_unbiased(samples(1_000), EXACT, min_bias=0.2)


def test_the_number_of_samples_needed_is_foreseen():
    enough = needed(samples(1_000), EXACT, min_bias=0.2)
    assert 5_000 < enough < 8_000  # (8 * 2 / 0.2) ** 2 = 6400
    assert_unbiased(samples(int(1.1 * enough)), EXACT, min_bias=0.2)


def test_not_a_number_fails():
    broken = samples(10_000)
    broken["a"][7] = np.nan
    with pytest.raises(AssertionError):
        assert_unbiased(broken, EXACT, min_bias=0.2)
    with pytest.raises(AssertionError):
        assert_exact(np.array([1.0, np.nan]), 1.0)


def test_an_estimator_without_variance_is_held_to_rounding():
    assert_unbiased(np.full(100, 1.0), 1.0, min_bias=0.01)
    assert_exact(np.full(100, 1.0), 1.0)
    with pytest.raises(AssertionError, match="the mean is"):
        assert_unbiased(np.full(100, 1.001), 1.0, min_bias=0.01)
    with pytest.raises(AssertionError, match="off by"):
        assert_exact(np.array([1.0, 1.001]), 1.0)


def test_shapes_must_agree():
    with pytest.raises(AssertionError, match="shape"):
        assert_unbiased(np.zeros((100, 2)), 0.0, min_bias=0.1)
