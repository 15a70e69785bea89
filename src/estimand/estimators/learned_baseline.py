"""A baseline that is a function of the parameters of the site's distribution.

They come before the draw, so that the estimator is unbiased, and an inference network's logits
are features of the datum (Mnih and Gregor 2014, section 2.3.2, whose input is the datum itself).
What comes before a site may also move the reward without moving these parameters: that such a
baseline cannot follow, and it predicts the mean over it. They are detached: the baseline is
trained on its own loss, and the program is not trained to be predictable.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax

from estimand.errors import EstimandError, error, source_line
from estimand.estimators.baseline import Baseline
from estimand.transforms.guards import is_inexact
from estimand.transforms.strategy import Law, check_optimizer

HIDDEN = 32
FAR = 10.0  # the feature that stands for an infinity, of which the weights have no derivative


def first_weights(key: Any, dist: Any) -> Any:
    """Parameters of a network with one hidden layer, from all parameters to all lanes."""
    size, lanes = len(_features(dist)), math.prod(dist.batch_shape)
    weights = jax.random.normal(key, (size, HIDDEN)) / max(size, 1) ** 0.5
    return {
        "hidden": (weights, jnp.zeros(HIDDEN)),
        "out": (jnp.zeros((HIDDEN, lanes)), jnp.zeros(lanes)),
    }


def network(params: Any, dist: Any) -> Any:
    """The baseline of every lane of a distribution, of shape `dist.batch_shape`."""
    (w, b), (v, c) = params["hidden"], params["out"]
    hidden = jnp.tanh(_features(dist).astype(w.dtype) @ w + b)
    return jnp.reshape(hidden @ v + c, dist.batch_shape)


def _features(dist: Any) -> Any:
    """The floating parameters of a distribution, in one row; logits of impossible outcomes too."""
    leaves = [jnp.ravel(jnp.asarray(x)) for x in jax.tree.leaves(dist) if is_inexact(x)]
    row = jnp.concatenate([x.astype(float) for x in leaves]) if leaves else jnp.zeros(0)
    return jnp.where(jnp.isinf(row), FAR * jnp.sign(row), row)


@dataclass(frozen=True)
class LearnedBaseline(Baseline):
    """For `Score(baseline=...)`: a function of the site's distribution, trained along the way.

    It is given nothing else: what moves the reward but not the parameters of this distribution, an
    earlier draw or the datum, only adds to the error of its prediction.

    Args:
        f: `f(params, dist)`, the baseline of shape `dist.batch_shape`, of one `vmap` lane of the
            site. A network with one hidden layer of 32 units if it is left out.
        start: `start(key, dist)`, its first parameters; the numbers in `dist` are placeholders.
        optimizer: from Optax; for the parameters of `f` alone.

    Raises:
        EstimandError: `f` or `start` is no function, or the optimizer none of Optax; `f` returns
            another shape, or holds values of the program, which may come from the site's draw.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist, optax
        >>> @em.expectation
        ... def cost(p):
        ...     return 10.0 * em.draw(dist.Bernoulli(p)).astype(float)
        >>> learned = em.LearnedBaseline(
        ...     lambda w, dist: w * dist.probs, lambda key, dist: 0.0, optax.sgd(0.2))
        >>> cost = cost.using({"draw 0": em.Score(baseline=learned)})
        >>> def step(state, key):
        ...     return cost.value_and_grad(key, 0.5, num_samples=64, state=state)[1], None
        >>> keys = jax.random.split(jax.random.key(0), 100)
        >>> state, _ = jax.lax.scan(step, cost.init(jax.random.key(0), 0.5), keys)
        >>> bool(abs(state.learned["draw 0"] - 10.0) < 1.0)  # E[cost] = 10 p
        True
    """

    f: Callable[[Any, Any], Any] = field(default=network, repr=False)
    start: Callable[[Any, Any], Any] = field(default=first_weights, repr=False)
    optimizer: optax.GradientTransformation = field(  # type: ignore[misc]
        default=optax.adam(1e-2), repr=False
    )

    def __post_init__(self) -> None:
        check_optimizer("LearnedBaseline", self.optimizer)
        if not callable(self.f) or not callable(self.start):
            raise error(
                f"em.LearnedBaseline ({source_line()})",
                "a learned baseline is a function of the site's distribution",
                expected="f(params, dist) and start(key, dist)",
                got=f"f={self.f!r}, start={self.start!r}",
                remedy="leave both out for a network with one hidden layer",
            )

    def init(self, key: Any, law: Law) -> Any:
        start = _of_its_own(self.start, law)
        return jax.tree.map(jnp.asarray, law.static(lambda dist: start(key, dist)))

    def before(self, law: Law) -> Any:
        def one(dist: Any) -> Any:
            found = jnp.asarray(_of_its_own(self.f, law)(law.state, jax.lax.stop_gradient(dist)))
            if found.shape != dist.batch_shape or not is_inexact(found):
                raise _another_shape(law, found, dist.batch_shape)
            return found

        return law.map(one)


def _of_its_own(fun: Callable, law: Law) -> Callable:
    """The function, which may not hold values of the program."""

    def call(*args: Any) -> Any:
        try:
            return fun(*args)
        except jax.errors.UnexpectedTracerError as leaked:
            raise _closes_over_the_program(law) from leaked

    return call


def _another_shape(law: Law, got: Any, expected: tuple[int, ...]) -> EstimandError:
    return error(
        f"site {law.label!r} ({law.site.source})",
        "its learned baseline has another shape than its lanes",
        expected=f"floating numbers of shape {list(expected)}: one for every lane",
        got=f"{got.dtype}{list(got.shape)}, which would be broadcast",
        remedy="let f(params, dist) return an array of shape dist.batch_shape",
    )


def _closes_over_the_program(law: Law) -> EstimandError:
    return error(
        f"site {law.label!r} ({law.site.source})",
        "a baseline may use only what comes before its site; one that depends on the sampled "
        "value is biased",
        expected="a function of its parameters and of the site's distribution",
        got="a function that closes over a value of the program being traced",
        remedy="use what f is given: f(params, dist)",
    )
