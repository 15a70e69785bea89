"""The score function, with the program itself between its values as a control variate (REBAR).

With the noise z of a discrete draw x, z~ its noise given x (`relaxation.py`), s(z) a value in
between and rho = exp(L - sg L) of x,

    S = (f(x) - eta f(s(z~))) rho + eta f(s(z)).

z~ and z are equal in law and, given x, the law of z~ does not depend on rho's derivative, so that

    E[S] = sum_x p(x) (f(x) - eta E[f(s(z~)) | x]) + eta E[f(s(z))] = E[f(x)],

as a function of the parameters: those of z and of z~ are differentiated through. For every
temperature and every eta it is right at first order for an extension of f that is continuous
between the values, and at every order for one that is smooth there (Tucker et al. 2017,
equation 5). f(s(z~)) is close to f(x), which is why the variance falls; what is added back has the
variance of a pathwise derivative.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax

from estimand.estimators.relaxation import CAVEAT, check_temperature, noise, refuses, squash
from estimand.estimators.score import ratio
from estimand.transforms.strategy import Law, Strategy, check_optimizer


@dataclass(frozen=True)
class Rebar(Strategy):
    """Score, less its conditional relaxation; Bernoulli and one-hot values, any order.

    Costs three evaluations of what the site reaches. The program may only calculate with the
    value, not compare it or index with it. One-hot values are those of `Multinomial(1, ...)`.
    What is calculated must have no kink between the values (`jax.nn.relu` has one), or the order is
    the first; and its integers must not overflow, which is seen of those of 8 and 16 bits only.

    Args:
        temperature: how far the values in between are from those of the site.
        optimizer: from Optax; if given, the temperature and eta (1 at first) are trained to lower
            the variance of the gradient, and are a state: see `Expectation.init`.

    Raises:
        EstimandError: a temperature that is not a positive number, or another optimizer.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def square(p):
        ...     x = em.draw(dist.Bernoulli(p), via=em.Rebar()).astype(float)
        ...     return (x - 0.45) ** 2
        >>> grad = square.grad(jax.random.key(0), 0.3, num_samples=4000)
        >>> bool(abs(grad - 0.1) < 0.02)
        True
    """

    temperature: float = 0.5
    optimizer: optax.GradientTransformation | None = field(  # type: ignore[misc]
        default=None, repr=False
    )
    through = True
    relaxed = True
    tuned = True
    caveat = CAVEAT

    def __post_init__(self) -> None:
        check_temperature("Rebar", self.temperature)
        if self.optimizer is not None:
            check_optimizer("Rebar", self.optimizer)

    def init(self, key: Any, law: Law) -> Any:
        return {"log_temperature": jnp.log(self.temperature), "eta": jnp.ones(())}

    def refuses(self, dist: Any) -> str | None:
        return refuses(dist, index=False)

    def count(self, dist: Any, joint: int) -> int:
        return 3

    def points(self, key: Any, law: Law) -> Any:
        x, z, conditional = noise(key, law)
        heat = self.temperature if law.state is None else jnp.exp(law.state["log_temperature"])
        near, given = (squash(law, each, heat) for each in (z, conditional))
        return jnp.stack([jax.lax.stop_gradient(x.astype(near.dtype)), near, given])

    def combine(self, law: Law, values: Any, f: Any) -> Any:
        eta = 1.0 if law.state is None else law.state["eta"].astype(f.dtype)
        x = jnp.round(values[0]).astype(jnp.result_type(int))
        rho = ratio(law.log_prob(x)).astype(f.dtype)
        return (f[0] - eta * f[2]) * rho + eta * f[1]
