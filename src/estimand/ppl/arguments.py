"""What training and estimates can be given."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from estimand.errors import error, is_count, source_line
from estimand.ppl.fit import Fit
from estimand.ppl.steps import is_trained
from estimand.transforms.guards import is_inexact
from estimand.transforms.jaxprs import is_concrete

RULES: dict[str, tuple[Callable[[Any], bool], str, str, str]] = {
    "objective": (
        lambda x: hasattr(x, "value_and_grad"),
        "training needs an estimator of a gradient",
        "an objective made by em.expectation",
        "put @em.expectation on the function; it takes no key of its own",
    ),
    "params": (
        lambda x: any(map(is_trained, jax.tree.leaves(x))),
        "there is nothing to train",
        "a pytree with floating leaves",
        "make the parameters floating: 0.0 and not 0",
    ),
    "optimizer": (
        lambda x: isinstance(x, optax.GradientTransformation),
        "this is no optimizer",
        "an optax.GradientTransformation",
        "pass one of Optax's, for example optax.adam(1e-3), called with its settings",
    ),
    "steps": (
        lambda x: is_count(x) and x >= 0,
        "a run has a number of steps",
        "an integer, zero or more",
        "with resume=, steps counts the further steps",
    ),
    "args": (
        lambda x: isinstance(x, tuple | list),
        "these are the arguments of the objective after the parameters and the batch",
        "a tuple",
        "for a single argument write args=(x,)",
    ),
    "num_runs": (
        lambda x: is_count(x) and x >= 1,
        "an estimate takes a run of the method",
        "an integer, one or more",
        "leave it out for one run",
    ),
    "chunk": (
        lambda x: x is None or (is_count(x) and x >= 1),
        "this is how many results are computed at a time",
        "an integer, one or more, or None for all at once",
        "a smaller chunk takes less memory, and chunk=1 the least",
    ),
    "resume": (
        lambda x: x is None or isinstance(x, Fit),
        "a run continues from what training returned",
        "an em.Fit",
        "pass the fit itself, not its parameters",
    ),
}


def check_arguments(traced: Any, **given: Any) -> None:
    """Refuse the first argument that breaks its rule, and any that is `traced`."""
    for name, value in given.items():
        fine, problem, expected, remedy = RULES[name]
        if not fine(value):
            raise error(
                f"{name} ({source_line()})",
                problem,
                expected=expected,
                got=f"{type(value).__name__} {value!r}",
                remedy=remedy,
            )
    if not all(map(is_concrete, jax.tree.leaves(traced))):
        raise error(
            f"training ({source_line()})",
            "it compiles its own steps, and reports between them",
            expected="a plain call",
            got="a call inside jit, vmap or grad",
            remedy="call it outside; value_and_grad and Optax can be used inside",
        )


def described(tree: Any) -> str:
    def one(x: Any) -> str:
        array = hasattr(x, "dtype") and hasattr(x, "shape")
        return f"{x.dtype}{list(x.shape)}" if array else type(x).__name__

    return str(jax.tree.map(one, tree))


def positive_count(num_samples: int) -> int:
    if not is_count(num_samples) or num_samples < 1:
        raise error(
            f"num_samples ({source_line()})",
            "at least one sample is needed",
            expected="a positive integer",
            got=repr(num_samples),
            remedy="pass num_samples=1 or more",
        )
    return int(num_samples)


def mean_over_samples(samples: jax.Array, where: str) -> jax.Array:
    if is_inexact(samples):
        return jnp.mean(samples, axis=0)
    raise error(
        f"aux of {where}",
        "aux is averaged over samples, and this leaf is not floating",
        expected="floating aux with num_samples > 1",
        got=str(samples.dtype),
        remedy="cast it to float, or use num_samples=1",
    )
