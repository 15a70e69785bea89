"""`seed`: run a program with a key."""

from typing import Any

import jax
import jax.numpy as jnp

from estimand.errors import EstimandError, error, source_line
from estimand.transforms.density import draw
from estimand.transforms.guards import refuse_derivative
from estimand.transforms.interpret import Handler, Path
from estimand.transforms.jaxprs import Equation
from estimand.transforms.primitives import Site


class Seed(Handler):
    """Draws every site with a key of its own, folded in from its turn in the program."""

    def __init__(self, key: Any):
        self.key = key
        self.turn = 0

    def next_key(self) -> Any:
        self.turn += 1
        return jax.random.fold_in(self.key, self.turn)

    def site(self, eqn: Equation, path: Path, address: str, leaves: list[Any]) -> Any:
        site: Site = eqn.params["site"]
        if not pathwise(site, leaves):
            leaves = refuse_derivative(leaves, lambda: _not_differentiable(site))
        return draw(site, self.next_key(), leaves)

    def fork(self, eqn: Equation, path: Path, scope: Any, n: int | None) -> Any:
        key = self.next_key()
        return key if n is None else jax.random.split(key, n)

    def child(self, incoming: Any) -> "Seed":
        return Seed(incoming)


def pathwise(site: Site, leaves: list[Any]) -> bool:
    """Whether a draw is a differentiable function of the distribution's parameters."""
    return bool(site.structure.build(list(leaves)).has_rsample)


def as_key(key: Any) -> Any:
    """A typed key; a legacy uint32 key is wrapped, anything else is refused."""
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape == ():
            return key
        got = f"an array of keys of shape {key.shape}"
    elif getattr(key, "dtype", None) == jnp.uint32 and key.shape[-1:] == (2,) and key.ndim == 1:
        return jax.random.wrap_key_data(key)
    else:
        got = f"{type(key).__name__} {key!r}"
    raise error(
        f"key ({source_line()})",
        "the first argument is a JAX random key",
        expected="one jax.random.key(seed), or a legacy uint32 key",
        got=got,
        remedy="pass jax.random.key(0) first; jax.vmap over jax.random.split(key, n) for n runs",
    )


def _not_differentiable(site: Site) -> EstimandError:
    return error(
        site.where,
        f"a draw of {site.distribution} is not a differentiable function of its parameters",
        expected="derivatives of seeded runs only through reparameterised distributions",
        got=f"jax.grad or jvp of em.seed(...) through {site.distribution}",
        remedy="estimate the derivative of the mean with @em.expectation, or put "
        "jax.lax.stop_gradient on the arguments of the seeded run",
    )
