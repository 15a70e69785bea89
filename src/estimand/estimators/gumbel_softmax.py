"""A continuous value in the place of a discrete one: biased, and cheap.

x = s(z / temperature), the relaxation of `relaxation.py`, differentiated pathwise (Maddison et al.
2017; Jang et al. 2017). What is estimated without bias is the objective of the relaxed program,
E[f(s(z / temperature))], in value and in gradient. As the temperature falls that tends to E[f(x)],
and the variance of its gradient to infinity.
"""

from dataclasses import dataclass
from typing import Any

from estimand.errors import EstimandError, error, source_line
from estimand.estimators.relaxation import check_temperature, noise, refuses, squash
from estimand.transforms.strategy import Law, Strategy


@dataclass(frozen=True)
class GumbelSoftmax(Strategy):
    """Biased, in value and gradient: the site's value is replaced by one in between.

    For Bernoulli and one-hot values, which are those of `Multinomial(1, ...)`. Integers that the
    program makes of them must not overflow, which is seen of those of 8 and 16 bits only.

    Args:
        temperature: how far the values in between are from those of the site.
        biased: must be True: the estimates are not those of the objective as written.

    Raises:
        EstimandError: a temperature that is not a positive number, or `biased` is not True.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def square(p):
        ...     x = em.draw(dist.Bernoulli(p), via=em.GumbelSoftmax(0.5, biased=True))
        ...     return (x.astype(float) - 0.45) ** 2
        >>> grad = square.grad(jax.random.key(0), 0.3, num_samples=4000)
        >>> bool(abs(grad - 0.1) > 0.02)  # the exact derivative is 0.1
        True
    """

    temperature: float = 0.5
    biased: bool = False
    pathwise = True
    relaxed = True
    caveat = "BIASED in value and gradient: it is the objective of a relaxed program"

    def __post_init__(self) -> None:
        check_temperature("GumbelSoftmax", self.temperature)
        if self.biased is not True:
            raise says_biased("GumbelSoftmax", f"temperature={self.temperature}, ")

    def refuses(self, dist: Any) -> str | None:
        return refuses(dist, index=False)

    def points(self, key: Any, law: Law) -> Any:
        return squash(law, noise(key, law).z, self.temperature)


def says_biased(name: str, arguments: str = "") -> EstimandError:
    return error(
        f"em.{name} ({source_line()})",
        "its gradient is biased, and so has to be asked for",
        expected="biased=True",
        got="biased=False",
        remedy=f"write {name}({arguments}biased=True), or use an unbiased strategy: Rebar(), "
        "DisArm(), LeaveOneOut() or Enumerate()",
    )
