"""Normal noise around a value, for what cannot be differentiated (evolution strategies).

At a value v of d entries, the smoothed objective is F(v) = E[f(v + sigma eps)], eps ~ N(0, I). It
has derivatives of every order though f has none. With points x fixed where they were drawn,

    F(v) = E_x[f(x) rho(x)],   rho(x) = N(x; v, sigma^2) / sg N(x; v, sigma^2),

an identity in v, so that its derivatives are unbiased at every order; the first one is
E[f(v + sigma eps) eps] / sigma (Nesterov and Spokoiny 2017, section 2). At x = v + sigma eps
and with u = v - sg v, log rho = eps u / sigma - u^2 / (2 sigma^2). The noise comes in pairs +-eps
(Salimans et al. 2017, section 2), in which constants cancel, and all that is even:

    dF/dv ~ 1/n sum_i eps_i (f(v + sigma eps_i) - f(v - sigma eps_i)) / (2 sigma).

It is F that is estimated and not f: F - f = sigma^2 / 2 tr(Hessian of f) + O(sigma^4).

Control variate. Pairs do not cancel what is linear: for f(x) = g x the sum above is the mean of
eps_i (eps_i g), of variance (d + 1) |g|^2 / n in all. Given a slope a of past steps, subtract
a (x - v) rho at each point, and add its mean a u back: of value 0, and of mean 0 for every v. For
linear f, (d + 1) |g - a|^2 / n remains, and nothing once a = g. The slope is an average of past
estimates, of variance (1 - decay) / (1 + decay) (d + 1) |g|^2 / n; so it pays if d + 1 is less
than n (1 + decay) / (1 - decay).

Training the slope. With u + sg a - a in the place of u, of the same value, the surrogate has the
derivative -dF/dv in a; with a^2 / 2 - sg a^2 / 2 added once, it is a - dF/dv, and gradient
descent at the rate 1 - decay is a <- decay a + (1 - decay) dF/dv.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dists
import optax

from estimand.errors import error, is_count, source_line
from estimand.transforms.strategy import Law, Strategy

WRAPPERS = (dists.ExpandedDistribution, dists.Independent)


@dataclass(frozen=True)
class BlackBox(Strategy):
    """Antithetic normal noise around a `Delta`; for what the site reaches smoothed, any order.

    `x = em.draw(dist.Delta(v), via=em.BlackBox(0.1))` is v + sigma eps, and what is made of x need
    not be differentiable: it may jump, or be computed by `jax.pure_callback`. Value and
    derivatives are unbiased for E[f(v + sigma eps)], and not for f(v), from which it is off by
    about sigma^2 / 2 times the trace of the Hessian of f.

    Costs 2n evaluations of what the site reaches. A callback needs a `vmap_method`; with
    "sequential", lanes of a `vmap` stay apart.

    Args:
        sigma: the scale of the noise.
        n: the number of antithetic pairs.
        decay: keep a running average of past slopes as a control variate, which has this weight
            in the next step; the objective then has a state (see `Expectation.init`). It pays
            if v has fewer than about n (1 + decay) / (1 - decay) entries that meet.

    Raises:
        EstimandError: sigma, n or decay is out of its range.

    Example:
        >>> import estimand as em, jax, jax.numpy as jnp, numpy as np, numpyro.distributions as dist
        >>> def simulator(x):  # NumPy, of which JAX knows nothing
        ...     return np.asarray(3.0 * np.sum(x), x.dtype)
        >>> @em.expectation
        ... def reward(v):
        ...     x = em.draw(dist.Delta(v, event_dim=1), via=em.BlackBox(0.1, n=64))
        ...     shape = jax.ShapeDtypeStruct((), x.dtype)
        ...     return jax.pure_callback(simulator, shape, x, vmap_method="sequential")
        >>> grad = reward.grad(jax.random.key(0), jnp.array([1.0, 2.0]), num_samples=10)
        >>> bool(jnp.all(jnp.abs(grad - 3.0) < 0.6))
        True
    """

    sigma: float
    n: int = 8
    decay: float | None = None

    smooths = True
    caveat = "for the objective smoothed by noise of scale sigma, off by sigma^2/2 tr(Hessian)"

    def __post_init__(self) -> None:
        scale = isinstance(self.sigma, float | int) and 0 < self.sigma < math.inf
        decay = isinstance(self.decay, float | int | None)
        decay = decay and (self.decay is None or 0 <= self.decay < 1)
        if not (scale and decay and is_count(self.n) and self.n > 0):
            raise error(
                f"em.BlackBox ({source_line()})",
                "it puts n pairs of points around a value, sigma away from it",
                expected="sigma a positive Python number, n a positive integer, decay None or a "
                "number from 0 to less than 1",
                got=repr(self),
                remedy="write BlackBox(0.1), or BlackBox(0.1, n=16, decay=0.9)",
            )

    @property
    def optimizer(self) -> optax.GradientTransformation | None:
        return None if self.decay is None else optax.sgd(1 - self.decay)

    def init(self, key: Any, law: Law) -> Any:
        return jnp.zeros((*law.shape, *law.static(lambda dist: dist.event_shape)))

    def refuses(self, dist: Any) -> str | None:
        while isinstance(dist, WRAPPERS):
            dist = dist.base_dist
        if not isinstance(dist, dists.Delta):
            return "it is made for Delta, whose value it perturbs"
        floating = jnp.issubdtype(jnp.result_type(dist.v), jnp.floating)
        return None if floating else "its value is not floating, and cannot be perturbed"

    def count(self, dist: Any, joint: int) -> int:
        return 2 * self.n

    def points(self, key: Any, law: Law) -> Any:
        v = law.sample(key)
        return jax.lax.stop_gradient(v + self.sigma * self._noise(key, v))

    def combine(self, law: Law, values: Any, f: Any) -> Any:
        v = law.sample(law.key)
        u = v - jax.lax.stop_gradient(v)
        if law.state is not None:
            a = law.state.astype(v.dtype)
            u = u + jax.lax.stop_gradient(a) - a
        return jnp.mean(f * self._ratio(law, v, u).astype(f.dtype), axis=0)

    def control(self, law: Law, values: Any) -> Any:
        """-1/n sum a (x - v) rho + a u + (a^2 - sg a^2) / 2, shared among lanes that meet."""
        if law.state is None:
            return None
        v = law.sample(law.key)
        u, a = v - jax.lax.stop_gradient(v), law.state.astype(v.dtype)
        fixed = jax.lax.stop_gradient(a)
        noise = self.sigma * self._noise(law.key, v)
        linear = jax.vmap(law.gather)(_over_event(law, fixed * noise))
        control = law.gather(_over_event(law, fixed * u + (a**2 - fixed**2) / 2))
        control = control - jnp.mean(linear * self._ratio(law, v, u), axis=0)
        meeting = max(1, math.prod(law.shape[i] for i in law.joint))
        return jnp.broadcast_to(law.spread(control) / meeting, law.shape)

    def _noise(self, key: Any, v: Any) -> Any:
        """Pairs of noise, [2n, *lanes, *event]: all of one sign before all of the other."""
        eps = jax.random.normal(key, (self.n, *v.shape), v.dtype)
        return jnp.concatenate([eps, -eps])

    def _ratio(self, law: Law, v: Any, u: Any) -> Any:
        """rho at each point, [2n, *batch_shape]."""
        log_ratio = self._noise(law.key, v) * (u / self.sigma) - (u / self.sigma) ** 2 / 2
        return jnp.exp(jax.vmap(law.gather)(_over_event(law, log_ratio)))


def _over_event(law: Law, x: Any) -> Any:
    """The sum over the axes of the event, which are the last."""
    event = len(law.static(lambda dist: dist.event_shape))
    return jnp.sum(x, axis=tuple(range(-event, 0)))
