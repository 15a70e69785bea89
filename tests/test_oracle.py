"""The oracle against answers known in closed form, one for every source of randomness it has."""

import numpy as np
import pytest

from tests.oracle import expectation, gradient

THETA = np.array([0.3, 1.7])

CLOSED_FORMS = {
    "flip": (
        lambda w, t: (w.flip(t[0]) + t[1]) ** 2,
        lambda p, c: p * (1 + c) ** 2 + (1 - p) * c**2,
    ),
    "categorical": (
        lambda w, t: w.categorical([t[0], 0.5, 0.5 - t[0]]) * t[1],
        lambda p, c: c * (1.5 - 2 * p),
    ),
    "normal": (
        lambda w, t: w.normal(t[0], t[1]) ** 4,
        lambda m, s: m**4 + 6 * m**2 * s**2 + 3 * s**4,
    ),
    "gamma": (lambda w, t: w.gamma(t[1], t[0]) ** 2, lambda r, a: a * (a + 1) / r**2),
    "beta": (lambda w, t: w.beta(t[0], t[1]), lambda a, b: a / (a + b)),
    "poisson": (lambda w, t: w.poisson(t[1]) ** 2 * t[0], lambda c, r: c * (r + r**2)),
    "geometric": (lambda w, t: w.geometric(t[0]) * t[1], lambda p, c: c * (1 - p) / p),
    "dependent flips": (
        lambda w, t: w.flip(t[0] * (1 + w.flip(t[0]))) * t[1],
        lambda p, c: c * p * (1 + p),
    ),
}


@pytest.mark.parametrize("program, exact", CLOSED_FORMS.values(), ids=CLOSED_FORMS)
def test_value_and_gradient_are_those_of_the_closed_form(program, exact):
    steps = 1e-6 * np.eye(2)
    slopes = [(exact(*(THETA + s)) - exact(*(THETA - s))) / 2e-6 for s in steps]
    np.testing.assert_allclose(expectation(program, THETA), exact(*THETA), rtol=1e-9)
    np.testing.assert_allclose(gradient(program, THETA), slopes, rtol=1e-6, atol=1e-8)


def test_paths_of_different_length_are_all_taken():
    seen = []

    def program(world, theta):
        path = [world.flip(0.25)]
        if path[0]:
            path += [world.categorical([0.2, 0.3, 0.5])]
        seen.append((tuple(path), world.weight))
        return 0.0

    expectation(program, THETA)
    assert seen == [((0.0,), 0.75), ((1.0, 0), 0.05), ((1.0, 1), 0.075), ((1.0, 2), 0.125)]


def test_a_frozen_theta_has_no_derivative():
    np.testing.assert_allclose(
        gradient(lambda w, t: w.flip(w.theta[0]) * t[1], THETA), [0.0, 0.3], atol=1e-9
    )
