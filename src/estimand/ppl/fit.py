"""A run of training, as a value: what it found, and all it takes to continue it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from estimand.errors import EstimandError, error, source_line
from estimand.ppl.steps import is_trained, partition
from estimand.transforms.seed import as_key


class Fit(NamedTuple):
    """A run, finished or not: a pytree, which `em.save` writes and `resume=` continues.

    Attributes:
        params: the parameters after the last step.
        opt_state: of the optimizer.
        state: of the objective's strategies, empty where none of them learns.
        step: how many steps were taken, earlier runs included.
        key: the key that the run was started with.
        history: the estimate of the objective at every step, before its update.
    """

    params: PyTree
    opt_state: PyTree
    state: PyTree
    step: int
    key: Any
    history: np.ndarray


class NonFiniteError(EstimandError, FloatingPointError):
    """A value, gradient, update or state that is not finite, met while training.

    Attributes:
        fit: the run up to the step before, whose parameters and state are still good.
    """

    def __init__(self, message: str, fit: Fit):
        super().__init__(message)
        self.fit = fit


def check_resume(
    fit: Fit, params: PyTree, optimizer: optax.GradientTransformation, key: Any
) -> None:
    """Refuse to continue a run with what is not its own."""
    given, own = (jax.random.key_data(as_key(k)) for k in (key, fit.key))
    if given.shape != own.shape or not bool(jnp.all(given == own)):
        raise _resume_error("key", "the key that the run was started with", "another key")
    weights = partition(params, is_trained)[0]
    for name, given, own in (
        ("params", weights, partition(fit.params, is_trained)[0]),
        ("optimizer", jax.eval_shape(optimizer.init, weights), fit.opt_state),
    ):
        expected, got = _types(own), _types(given)
        if expected != got:
            paths = [p for p in expected | got if expected.get(p) != got.get(p)]
            raise _resume_error(
                name,
                ", ".join(f"{expected.get(path, 'nothing')} at {path}" for path in paths),
                ", ".join(f"{got.get(path, 'nothing')} at {path}" for path in paths),
            )


def _types(tree: PyTree) -> dict[str, str]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path) or "the root": f"{jnp.result_type(x)}{list(np.shape(x))}"
        for path, x in leaves
    }


def _resume_error(name: str, expected: str, got: str) -> EstimandError:
    return error(
        f"{name} ({source_line()})",
        "a run can be continued only with what it was started with",
        expected=expected,
        got=got,
        remedy="pass what the run was started with, or start another without resume=",
    )
