"""A running mean as a baseline.

    b <- b + (1 - decay) / (1 - decay^t) (R - b),   t = 1, 2, ...

is the exponential moving average of R with its start at zero taken out (Kingma and Ba 2015,
section 3), and it is gradient descent on (R - b)^2 / 2 with that rate: so it is trained as any
other baseline is.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from estimand.errors import error, is_number, source_line
from estimand.estimators.baseline import Baseline
from estimand.transforms.strategy import Law


@dataclass(frozen=True)
class MovingAverage(Baseline):
    """For `Score(baseline=...)`: the mean of what each lane of the site reached in past steps.

    Args:
        decay: the weight that a step keeps in the next one.

    Raises:
        EstimandError: the decay is not a number from 0 to less than 1.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def cost(p):
        ...     via = em.Score(baseline=em.MovingAverage(0.5))
        ...     return 10.0 + em.draw(dist.Bernoulli(p), via=via).astype(float) * p
        >>> step = jax.jit(lambda key, state: cost.value_and_grad(key, 0.5, state=state))
        >>> state = cost.init(jax.random.key(0), 0.5)
        >>> for t in range(20):
        ...     (value, grad), state = step(jax.random.key(t), state)
        >>> 0.0 < float(state.learned["draw 0"]) < 0.5  # the draw does not reach the ten
        True
    """

    decay: float = 0.9

    def __post_init__(self) -> None:
        if not is_number(self.decay) or not 0.0 <= self.decay < 1.0:
            raise error(
                f"em.MovingAverage ({source_line()})",
                "the decay is the weight of the past",
                expected="a Python number from 0 to less than 1",
                got=repr(self.decay),
                remedy="write MovingAverage(0.9)",
            )

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optax.sgd(lambda step: (1 - self.decay) / (1 - self.decay ** (step + 1)))

    def init(self, key: Any, law: Law) -> Any:
        return jnp.zeros(law.shape)

    def before(self, law: Law) -> Any:
        """One where the site is drawn: in a branch that is not taken, there is zero instead."""
        return jnp.ones(law.shape)

    def after(self, law: Law) -> Any:
        return law.before * law.state
