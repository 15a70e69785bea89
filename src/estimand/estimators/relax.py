"""The score function, with a learned function of the noise as a control variate (RELAX).

With the noise z of a discrete draw x and z~ its noise given x (`relaxation.py`), the site adds,
once for all that it reaches,

    c(z) - c(z~) rho,   rho = exp(L - sg L) of x,

to the score function's surrogate f(x) rho. z and z~ are equal in law, so the mean of what is
added is zero as a function of the parameters, for every c: the estimator stays unbiased at every
order (Grathwohl et al. 2018, equations 6 to 8). c is a network of z, squashed at a learned
temperature, and of the detached parameters of the site. It is trained to lower the variance
of the gradient, and starts at zero, that is, at the score function. The authors add the program
itself between its values, which is what `Rebar` does; here the program is only evaluated at x,
and may do with it what it likes.

Lanes that meet have one c together, and equal shares in it, for only the sum counts: given all
that comes before the site, the mean of c(z) - c(z~) rho is zero, so that no earlier site is to be
credited with it. The steps of a scan are not lanes in this sense, since a step's law depends on
the draws before it: each has a c of its own noise.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax

from estimand.errors import error, is_count, source_line
from estimand.estimators.relaxation import (
    BERNOULLI,
    CAVEAT,
    check_temperature,
    noise,
    refuses,
    squash,
)
from estimand.estimators.score import ratio
from estimand.transforms.distributions import probabilities
from estimand.transforms.strategy import Law, Strategy, check_optimizer


@dataclass(frozen=True)
class Relax(Strategy):
    """Score, less a learned control variate; Bernoulli, Categorical and one-hot, any order.

    One evaluation of the program. Its network is a state: see `Expectation.init`.

    Args:
        hidden: the number of units of the network's one hidden layer.
        temperature: the first one; it is trained along.
        optimizer: from Optax; for the network and the temperature.

    Raises:
        EstimandError: no units, a temperature that is not a positive number, another optimizer.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def square(p):
        ...     x = em.draw(dist.Bernoulli(p), via=em.Relax()).astype(float)
        ...     return 10.0 + (x - 0.45) ** 2
        >>> state = square.init(jax.random.key(0), 0.3)
        >>> step = jax.jit(lambda key, state: square.value_and_grad(key, 0.3, state=state))
        >>> early, late = [], []
        >>> for t in range(1000):
        ...     (value, grad), state = step(jax.random.key(t), state)
        ...     (early if t < 100 else late).append(float(grad))
        >>> import statistics
        >>> statistics.stdev(late[-100:]) < 0.5 * statistics.stdev(early)
        True
    """

    hidden: int = 32
    temperature: float = 0.5
    optimizer: optax.GradientTransformation = field(  # type: ignore[misc]
        default=optax.adam(1e-2), repr=False
    )
    tuned = True
    caveat = CAVEAT

    def __post_init__(self) -> None:
        check_temperature("Relax", self.temperature)
        check_optimizer("Relax", self.optimizer)
        if not is_count(self.hidden) or self.hidden < 1:
            raise error(
                f"em.Relax ({source_line()})",
                "the network of its control variate has one hidden layer",
                expected="hidden, a positive integer",
                got=repr(self.hidden),
                remedy="leave it out for 32 units",
            )

    def refuses(self, dist: Any) -> str | None:
        return refuses(dist, index=True)

    def init(self, key: Any, law: Law) -> Any:
        size = 2 * law.static(_width) * math.prod(law.shape[i] for i in law.joint)
        weights = jax.random.normal(key, (size, self.hidden)) / max(size, 1) ** 0.5
        return {
            "log_temperature": jnp.log(self.temperature),
            "hidden": (weights, jnp.zeros(self.hidden)),
            "out": jnp.zeros(self.hidden),
        }

    def points(self, key: Any, law: Law) -> Any:
        return jax.lax.stop_gradient(noise(key, law).x)

    def before(self, law: Law) -> Any:
        """z and z~, squashed, and the site's own probabilities: [*lanes, 3, K]."""
        drawn = noise(law.key, law)
        heat = jnp.exp(law.state["log_temperature"])
        rows = [squash(law, z, heat) for z in (drawn.z, drawn.conditional)]
        probs = jax.lax.stop_gradient(law.map(probabilities))
        rows.append(probs.astype(rows[0].dtype))
        width = law.static(_width)
        return jnp.stack([jnp.reshape(row, (*law.shape, width)) for row in rows], axis=-2)

    def combine(self, law: Law, values: Any, f: Any) -> Any:
        return f * ratio(law.log_prob(values)).astype(f.dtype)

    def control(self, law: Law, values: Any) -> Any:
        joint = sorted(law.joint)
        rows = jnp.moveaxis(law.before, joint, range(-1 - len(joint), -1))
        free, given, probs = jnp.moveaxis(rows, len(law.batch_shape), 0)
        free, given = (self._network(law, z, probs) for z in (free, given))
        control = law.spread(free - given * ratio(law.log_prob(values)).astype(free.dtype))
        lanes = math.prod(law.shape[i] for i in joint)
        return jnp.broadcast_to(control / max(lanes, 1), law.shape)

    def _network(self, law: Law, z: Any, probs: Any) -> Any:
        """c of shape `batch_shape`, from the squashed noise of all joint lanes."""
        w, b = law.state["hidden"]
        x = jnp.stack([z, probs], axis=-1).astype(w.dtype)
        x = jnp.reshape(x, (*law.batch_shape, w.shape[0]))
        return jnp.tanh(x @ w + b) @ law.state["out"]


def _width(dist: Any) -> int:
    """The number of entries of the noise of a draw."""
    return 1 if isinstance(dist, BERNOULLI) else int(dist.probs.shape[-1])
