"""The derivative of the mean in the place of that of a draw: biased, and cheap.

The value is a draw, x, and its derivative is taken to be that of the probabilities p:

    x + p - sg p

(Bengio et al. 2013, section 4). The value of the objective is unbiased. The gradient is
E[f'(x)] dp, which is that of E[f(x)] where f is linear in x, and not otherwise.
"""

from dataclasses import dataclass
from typing import Any

import jax

from estimand.estimators.gumbel_softmax import says_biased
from estimand.estimators.relaxation import noise, refuses
from estimand.transforms.distributions import probabilities
from estimand.transforms.strategy import Law, Strategy


@dataclass(frozen=True)
class StraightThrough(Strategy):
    """Biased in the gradient: the value is a draw, its derivative that of the probabilities.

    For Bernoulli and one-hot values, which are those of `Multinomial(1, ...)`. Integers that the
    program makes of them must not overflow, which is seen of those of 8 and 16 bits only.

    Args:
        biased: must be True: the gradient is not that of the objective.

    Raises:
        EstimandError: `biased` is not True.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def square(p):
        ...     x = em.draw(dist.Bernoulli(p), via=em.StraightThrough(biased=True))
        ...     return (x.astype(float) - 0.45) ** 2
        >>> grad = square.grad(jax.random.key(0), 0.3, num_samples=4000)
        >>> bool(abs(grad + 0.3) < 0.05)  # the exact derivative is 0.1
        True
    """

    biased: bool = False
    pathwise = True
    relaxed = True
    caveat = "BIASED gradient: the derivative of a draw is taken to be that of its mean"

    def __post_init__(self) -> None:
        if self.biased is not True:
            raise says_biased("StraightThrough")

    def refuses(self, dist: Any) -> str | None:
        return refuses(dist, index=False)

    def points(self, key: Any, law: Law) -> Any:
        x = noise(key, law).x
        p = law.map(probabilities).astype(float)
        return x.astype(p.dtype) + p - jax.lax.stop_gradient(p)
