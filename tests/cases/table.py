"""The form of a case: a program written twice, once with sites and once for brute force.

`program(t, via)` is the objective, with `via` the strategy of the sites under test;
`exact(world, t)` is the same program in numpy, with `world` handing out the random values.
Value and gradient at `theta` then follow from `tests.oracle`.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import estimand as em
from tests import oracle
from tests.marks import by_default
from tests.statistics import assert_exact, assert_unbiased, draws, enough_draws, scale

DISCRETE = (em.Score, em.Enumerate, em.MeasureValued)
CONTINUOUS = (em.Pathwise, em.Score, em.MeasureValued)
REPARAMETERISED = (em.Pathwise, em.Score)

UNSAID = type(None)  # the strategy that nobody chose: via=None
SEVERAL_POINTS = (em.Enumerate, em.MeasureValued)
MIN_BIAS = 0.1  # of the scale of the answer


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of a table."""

    program: Callable
    exact: Callable
    theta: tuple
    strategies: tuple
    mixed: bool  # whether sites with strategies of their own keep the estimate random
    inside: str  # what the sites are inside of, if a strategy with several points cannot enter

    def objective(self, strategy):
        """The program as an objective, its sites under test estimated by `strategy`."""

        def objective(t):
            return self.program(t, strategy)

        return em.expectation(objective)

    @functools.cached_property
    def answer(self):
        """The exact value and gradient."""
        theta = np.asarray(self.theta, np.float64)
        return oracle.expectation(self.exact, theta), oracle.gradient(self.exact, theta)

    def hold(self, strategy):
        """Value and gradient are unbiased, and without variance where all that is random is
        enumerated.
        """
        objective, exact, theta = self.objective(strategy()), self.answer, jnp.array(self.theta)
        if strategy is em.Enumerate and not self.mixed:
            assert_exact(draws(objective, 8, theta), exact)
        else:
            min_bias = MIN_BIAS * scale(exact)
            assert_unbiased(enough_draws(objective, exact, min_bias, theta), exact, min_bias)


class Table(dict):
    """Cases by name."""

    def case(self, theta, strategies=(UNSAID,), mixed=False, inside=""):
        """Enter a class with functions `program` and `exact` in the table, under its name."""

        def enter(body):
            self[body.__name__] = Case(body.program, body.exact, theta, strategies, mixed, inside)
            return body

        return enter

    def legs(self, thin=False):
        """Parametrizes a test over all cases and the strategies that each of them takes.

        If `thin`, every second strategy of a case is for `-m full`, in turn.
        """
        pairs = {
            f"{name}-{strategy.__name__}": (case, strategy)
            for name, case in self.items()
            for strategy in case.strategies
        }
        turns = {
            f"{name}-{strategy.__name__}"
            for i, (name, case) in enumerate(self.items())
            for j, strategy in enumerate(case.strategies)
            if not thin or (i + j) % 2 == 0 or len(case.strategies) == 1
        }
        return pytest.mark.parametrize("case, strategy", by_default(pairs, *turns))


CASES = Table()
case = CASES.case


def flip(p, via):
    """A Bernoulli draw as a floating number: programs calculate with it."""
    return em.draw(dist.Bernoulli(probs=jnp.asarray(p)), via=via).astype(float)


def pick(logits, via):
    """A Categorical draw, to index with."""
    return em.draw(dist.Categorical(logits=jnp.asarray(logits)), via=via)


def normal(loc, scale, via):
    return em.draw(dist.Normal(loc, scale), via=via)
