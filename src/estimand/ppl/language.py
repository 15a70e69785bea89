"""The words a program is written in."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped
from numpyro.distributions import Distribution

from estimand.errors import error, source_line
from estimand.ppl.choices import flatten, unflatten
from estimand.transforms.guards import is_inexact
from estimand.transforms.interpret import interpret
from estimand.transforms.jaxprs import SCOPE
from estimand.transforms.primitives import bind_site, mark
from estimand.transforms.seed import Seed, as_key
from estimand.transforms.staging import stage


def sample(name: str, dist: Distribution, via: Any = None) -> Shaped[Array, "*lanes_and_event"]:
    """A named random value of a generative function.

    Args:
        name: its address, within the scopes that are open (`scope`).
        dist: any NumPyro distribution instance.
        via: the strategy by which an expectation over it is differentiated
            (`Pathwise()`, `Score()`, ...); None leaves the choice to the compiler.

    Returns:
        The value, of shape `dist.batch_shape + dist.event_shape`.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def coin():
        ...     return em.sample("heads", dist.Bernoulli(0.5))
        >>> sorted(em.seed(coin.simulate)(jax.random.key(0)).choices)
        ['heads']
    """
    if not isinstance(name, str) or not name:
        raise error(
            f"em.sample ({source_line()})",
            "a site needs a name",
            expected="a non-empty string",
            got=repr(name),
            remedy="em.sample('name', distribution), or em.draw(distribution) without a name",
        )
    return bind_site(dist, name=name, via=via)


def draw(dist: Distribution, via: Any = None) -> Shaped[Array, "*lanes_and_event"]:
    """An anonymous random value, for programs that need no density: see `sample`.

    Example:
        >>> import estimand as em, jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> em.seed(lambda: em.draw(dist.Normal(jnp.zeros(3), 1.0)))(jax.random.key(0)).shape
        (3,)
    """
    return bind_site(dist, name=None, via=via)


def factor(name: str, log_weight: Any) -> None:
    """Multiply a generative function's density by exp(log_weight), under an address.

    Example:
        >>> import estimand as em, numpyro.distributions as dist
        >>> @em.gen
        ... def tilted(x):
        ...     em.factor("tilt", -x)
        >>> float(tilted.log_density({}, 2.0))
        -2.0
    """
    weight = jnp.asarray(log_weight)
    mark(weight if is_inexact(weight) else weight.astype(float), "factor", name)


def scope(name: str) -> AbstractContextManager:
    """Open a group of addresses: a site `x` within `scope("encoder")` is `encoder/x`.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def pair():
        ...     for name in ("a", "b"):
        ...         with em.scope(name):
        ...             em.sample("x", dist.Normal(0.0, 1.0))
        >>> trace = em.seed(pair.simulate)(jax.random.key(0))
        >>> {name: sorted(group) for name, group in trace.choices.items()}
        {'a': ['x'], 'b': ['x']}
    """
    return jax.named_scope(SCOPE + name)


def detach(x: Any) -> Any:
    """Values that count, but carry no derivative: no score, no weight, no pathwise one.

    Off-policy sampling is written this way. Applied to a function, it detaches what the
    function returns: `detach(policy.simulate)(state)`.

    `jax.lax.stop_gradient` on a site's own output (also reshaped or cast) says the same. On
    anything computed from it, stop_gradient only stops pathwise derivatives, as logsumexp
    and softmax do inside, and the score still counts; `detach` detaches any value.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def objective(theta):
        ...     return theta * em.detach(em.draw(dist.Bernoulli(theta))).astype(float)
        >>> value, grad = objective.value_and_grad(jax.random.key(0), 0.25)
        >>> float(value), float(grad)  # theta^2, but theta and not 2 theta
        (0.0625, 0.25)
    """
    if callable(x):
        return lambda *args, **kwargs: detach(x(*args, **kwargs))
    return jax.tree.map(lambda leaf: mark(jax.lax.stop_gradient(leaf), "detach"), x)


def assume_continuous(x: Any) -> Any:
    """Vouch that a value's discontinuity does no harm, so that the check lets it pass.

    A pathwise derivative through a discontinuity (a comparison, a floor, a sort's indices)
    misses the part that comes from moving across it. Where that part is zero or unwanted,
    wrap the value before the operation.

    Example:
        >>> import estimand as em, jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> @em.expectation
        ... def size(theta):
        ...     x = em.draw(dist.Normal(theta, 1.0))
        ...     return x * jnp.sign(em.assume_continuous(x))  # |x|: it does not jump
        >>> float(size.grad(jax.random.key(0), 9.0))
        1.0
    """
    return jax.tree.map(lambda leaf: mark(leaf, "continuous"), x)


def merge(*choices: dict[str, Any]) -> dict[str, Any]:
    """The deep union of nested choices; an overlap is an error.

    Example:
        >>> import estimand as em
        >>> em.merge({"enc": {"z": 1.0}}, {"enc": {"y": 2.0}, "x": 3.0})
        {'enc': {'z': 1.0, 'y': 2.0}, 'x': 3.0}
    """
    return unflatten(flatten(*choices, where=f"em.merge ({source_line()})"))


def seed(fun: Callable) -> Callable:
    """A program as a function of a key: `seed(f)(key, *args)` runs it.

    Sites draw from keys folded in from the key in the order of the program; under `vmap`
    every lane draws independently. The result may be transformed by JAX as usual.
    Differentiating it follows reparameterised draws only; through any other draw it raises.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> def walk(n):
        ...     def step(x, _):
        ...         x = x + em.draw(dist.Normal(0.0, 1.0))
        ...         return x, x
        ...     return jax.lax.scan(step, 0.0, length=n)[1]
        >>> em.seed(walk)(jax.random.key(0), 5).shape
        (5,)
    """

    def run(key: Any, *args: Any, **kwargs: Any) -> Any:
        handler = Seed(as_key(key))
        staged = stage(fun, *args, **kwargs)
        return staged.unflatten(interpret(staged.jaxpr, staged.inputs, handler))

    return run
