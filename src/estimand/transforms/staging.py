"""From a Python call to a jaxpr and back.

Arrays and floats among the arguments are traced. Python integers, booleans, strings and
whatever else is not an array stay as they are, so they may set shapes and loop bounds.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from estimand.transforms.jaxprs import Jaxpr, trace


class Staged(NamedTuple):
    jaxpr: Jaxpr
    inputs: list[Any]  # values for the jaxpr's arguments
    out_shapes: Any  # the tree of ShapeDtypeStructs that the function returned

    def unflatten(self, outs: list[Any]) -> Any:
        """What the function returned; a constant is an array too."""
        shapes, treedef = jax.tree.flatten(self.out_shapes)
        arrays = [
            x if isinstance(x, jax.Array) else jnp.asarray(x, s.dtype)
            for x, s in zip(outs, shapes, strict=True)
        ]
        return jax.tree.unflatten(treedef, arrays)


def is_traced(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | float | complex)


def stage(fun: Callable, *args: Any, **kwargs: Any) -> Staged:
    """Trace `fun(*args, **kwargs)` with the array leaves of the arguments as inputs."""
    leaves, treedef = jax.tree.flatten((args, kwargs))
    traced = [is_traced(leaf) for leaf in leaves]

    def call(*inputs: Any) -> Any:
        rest = iter(inputs)
        mixed = [next(rest) if t else leaf for leaf, t in zip(leaves, traced, strict=True)]
        args, kwargs = jax.tree.unflatten(treedef, mixed)
        return fun(*args, **kwargs)

    inputs = [leaf for leaf, t in zip(leaves, traced, strict=True) if t]
    jaxpr, out_shapes = trace(call, *inputs)
    return Staged(jaxpr, inputs, out_shapes)
