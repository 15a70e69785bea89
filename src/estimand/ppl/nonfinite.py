"""Where the first NaN or infinity of an estimate comes from: states, values, gradients."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from estimand.ppl.learning import State, by_path, learners
from estimand.transforms.blame import first_nonfinite
from estimand.transforms.guards import is_inexact
from estimand.transforms.plan import Plan
from estimand.transforms.seed import as_key
from estimand.transforms.staging import is_traced


def find_nonfinite(
    objective: Any, key: Any, args: Sequence[Any], num_samples: int, state: State | None
) -> str:
    """A sentence: see `Expectation.find_nonfinite`."""
    staged, plan = objective._compile(args, has_aux=False)
    states = by_path(plan, state, objective.where)
    named = jax.tree_util.tree_leaves_with_path(args)
    names = [f"argument {jax.tree_util.keystr(p)}" for p, leaf in named if is_traced(leaf)]
    keys = [as_key(key)] if num_samples == 1 else jax.random.split(as_key(key), num_samples)
    found = _of_state(plan, state, "its state")
    for k in keys:
        found = found or first_nonfinite(plan, staged.inputs, names, k, states)
    if found:
        return found
    result = objective.value_and_grad(key, *args, num_samples=num_samples, state=state)
    (value, grads), new = result if state is not None else (result, None)
    if not _is_finite(value):
        return "every value of the program is finite, but their sum, or a strategy's, is not"
    for path, slope in jax.tree_util.tree_leaves_with_path(grads):
        if not _is_finite(slope):
            leaf = jax.tree_util.keystr(path) or "given"
            return f"every value is finite, but the gradient in the leaf {leaf} is not"
    found = _of_state(plan, new, "every value and gradient is finite, but its new state")
    return found or "every value and gradient is finite"


def _of_state(plan: Plan, state: State | None, whose: str) -> str | None:
    """A sentence on the first site whose part of a state is not finite."""
    if state is None:
        return None
    for name, path in learners(plan).items():
        leaves = jax.tree.leaves((state.parameters[name], state.opt_state[name]))
        if not all(_is_finite(x) for x in leaves if is_inexact(x)):
            return f"{plan.sites[path].where}: {whose} is not finite"
    return None


def _is_finite(x: Any) -> bool:
    return bool(jnp.all(jnp.isfinite(x)))
