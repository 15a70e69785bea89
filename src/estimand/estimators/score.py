"""Score function (REINFORCE), in the form that is right at every order.

With L = log p_theta(x), sg = stop_gradient and x = sg(x), the surrogate

    f exp(L - sg L)

has value f and first derivative f dL + df, whose mean is d E[f] (Williams 1992, eq. 4).
The derivative of exp(L - sg L) is itself times dL, so the same holds again at every order
(Foerster et al. 2018, section 3).

A baseline b that is not a function of x leaves the mean alone, because E[dL] = 0. It is
subtracted once per site and lane from all that the site reaches,

    b (1 - exp(L - sg L)),   of value 0 and derivative -b dL,

and not from each term: n terms would subtract n b. How it is trained is in `baseline.py`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from estimand.errors import error, is_number, source_line
from estimand.estimators.baseline import Baseline
from estimand.transforms.strategy import Law, Strategy


@dataclass(frozen=True)
class Score(Strategy):
    """f times the derivative of the log density; any distribution, any order.

    Args:
        baseline: a constant in the units of the objective: about the mean of the terms,
            with their coefficients, that one lane of the site reaches. Or one that is trained,
            `MovingAverage()` or `LearnedBaseline()`, whose state is passed along: see
            `Expectation.init`.

    Raises:
        EstimandError: the baseline is neither a finite number nor one of these.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def positive(loc):
        ...     x = em.draw(dist.Normal(loc, 1.0), via=em.Score(baseline=0.5))
        ...     return (x > 0).astype(float)
        >>> grad = positive.grad(jax.random.key(0), 0.0, num_samples=10_000)
        >>> bool(abs(grad - 0.3989) < 0.02)  # the normal density at zero
        True
    """

    baseline: float | Baseline = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.baseline, Baseline) and not is_number(self.baseline):
            raise error(
                f"em.Score ({source_line()})",
                "a baseline is a constant, because a strategy is a static part of the program",
                expected="a finite Python number, em.MovingAverage() or em.LearnedBaseline()",
                got=f"{type(self.baseline).__name__} {self.baseline!r}",
                remedy="write the number itself, or float(x) of an array that is known",
            )

    @property
    def optimizer(self) -> optax.GradientTransformation | None:
        return self.baseline.optimizer if isinstance(self.baseline, Baseline) else None

    def init(self, key: Any, law: Law) -> Any:
        assert isinstance(self.baseline, Baseline)
        return self.baseline.init(key, law)

    def before(self, law: Law) -> Any:
        return self.baseline.before(law) if isinstance(self.baseline, Baseline) else None

    def points(self, key: Any, law: Law) -> Any:
        return jax.lax.stop_gradient(law.sample(key))

    def combine(self, law: Law, values: Any, f: Any) -> Any:
        return f * ratio(law.gather(self._log_density(law, values))).astype(f.dtype)

    def control(self, law: Law, values: Any) -> Any:
        if self.baseline == 0.0:
            return None
        return self._baseline(law) * (1.0 - ratio(self._log_density(law, values)))

    def _log_density(self, law: Law, values: Any) -> Any:
        """L of every lane, plus the zero by which a baseline is trained."""
        log_density = law.log_density(values)
        if not isinstance(self.baseline, Baseline):
            return log_density
        b = self.baseline.after(law).astype(log_density.dtype)
        return log_density + jax.lax.stop_gradient(b) - b

    def _baseline(self, law: Law) -> Any:
        if isinstance(self.baseline, Baseline):
            return jax.lax.stop_gradient(self.baseline.after(law))
        return self.baseline


def ratio(log_prob: Any) -> Any:
    """exp(L - sg L): one, with the derivatives of the density ratio."""
    return jnp.exp(log_prob - jax.lax.stop_gradient(log_prob))
