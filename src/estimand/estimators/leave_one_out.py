"""Several draws, each with the mean of the others for a baseline (RLOO).

With draws x_1..x_n of the site, f_i the rest of the program at x_i and rho_i = exp(L_i - sg L_i),

    S = 1/n sum_i [f_i rho_i + sg(b_i) (1 - rho_i)],   b_i = 1/(n-1) sum_{j != i} f_j.

The value is the mean of f. b_i does not depend on x_i, and E[1 - rho_i] has no derivative of any
order, so the second part has mean zero at every order. The first derivative is

    1/(n-1) sum_i (f_i - mean f) dL_i + mean df

(Salimans and Knowles 2014; Kool et al. 2019, equation 8). Terms may be treated one by one: b is
linear in f, so that the baselines of the terms add up to that of their sum.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from estimand.errors import error, is_count, source_line
from estimand.estimators.score import ratio
from estimand.transforms.strategy import Law, Strategy


@dataclass(frozen=True)
class LeaveOneOut(Strategy):
    """n draws, each scored against the mean of the others; any distribution, any order.

    Costs n evaluations of what the site reaches. Lanes that meet are n draws of their vector.

    Args:
        n: the number of draws, two or more.

    Raises:
        EstimandError: n is not an integer of two or more.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def count(rate):
        ...     return 100.0 + em.draw(dist.Poisson(rate), via=em.LeaveOneOut(4)).astype(float)
        >>> grad = count.grad(jax.random.key(0), 2.0, num_samples=1000)
        >>> bool(abs(grad - 1.0) < 0.1)
        True
    """

    n: int = 2

    def __post_init__(self) -> None:
        if not is_count(self.n) or self.n < 2:
            raise error(
                f"em.LeaveOneOut ({source_line()})",
                "a single draw has no others to be compared with",
                expected="n, an integer of two or more",
                got=repr(self.n),
                remedy="write LeaveOneOut(2), or Score() for a single draw",
            )

    def count(self, dist: Any, joint: int) -> int:
        return self.n

    def points(self, key: Any, law: Law) -> Any:
        return jax.lax.stop_gradient(jax.vmap(law.sample)(jax.random.split(key, self.n)))

    def combine(self, law: Law, values: Any, f: Any) -> Any:
        rho = ratio(jax.vmap(law.log_prob)(values)).astype(f.dtype)
        others = jax.lax.stop_gradient((jnp.sum(f, axis=0) - f) / (self.n - 1))
        return jnp.mean(f * rho + others * (1 - rho), axis=0)
