"""What training can be given."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from estimand.errors import error, is_count, source_line
from estimand.ppl.fit import Fit
from estimand.ppl.steps import is_trained
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
