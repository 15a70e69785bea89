"""What a training step computes, and its compilation in chunks."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from estimand.ppl.batches import Batches

CHUNK = 1_000  # the most steps in a chunk


class Objective(Protocol):
    """What training asks of an objective; `em.expectation` makes them."""

    def init(self, key: Any, *args: Any) -> Any: ...

    def value_and_grad(self, key: Any, *args: Any, num_samples: int, state: Any) -> Any: ...

    def estimate(self, key: Any, *args: Any, num_samples: int, argnums: int, state: Any) -> Any: ...

    def explain(self, *args: Any) -> str: ...

    def find_nonfinite(self, key: Any, *args: Any, num_samples: int, state: Any) -> str: ...


class Arrays(NamedTuple):
    """What no step changes, and the compiled chunk takes as arguments."""

    key: Any
    data_key: Any
    data: PyTree
    frozen: PyTree  # arrays among the parameters that are not trained and among args


class Carry(NamedTuple):
    """What steps change."""

    weights: PyTree  # the trained leaves of the parameters, None for the others
    opt_state: PyTree
    state: PyTree
    step: Any
    order: Any  # the permutation of this epoch, or None
    values: Any  # [CHUNK], of which the first are this chunk's
    finite: Any  # whether the value, every gradient, every update and every part of the state is


class Program(NamedTuple):
    """What a step computes; `static` are the leaves of `Arrays.frozen` that are no arrays."""

    objective: Objective
    sign: int
    optimizer: optax.GradientTransformationExtraArgs
    batches: Batches | None
    num_samples: int
    static: PyTree

    def begin(self, arrays: Arrays, weights: Any, opt_state: Any, state: Any, step: int) -> Carry:
        checks = 1 + 2 * len(jax.tree.leaves(weights)) + len(floating(state))
        checked = jnp.ones(checks, bool)
        weights, opt_state, state = jax.tree.map(strong, (weights, opt_state, state))
        order, values = self.order(arrays, step), jnp.zeros(CHUNK)
        return Carry(weights, opt_state, state, jnp.int32(step), order, values, checked)

    def order(self, arrays: Arrays, step: int) -> Any:
        return self.batches and self.batches.order(arrays.data_key, jnp.int32(step))

    def arguments(self, weights: PyTree, arrays: Arrays, step: Any, order: Any) -> list[Any]:
        """Those of the objective at a step, `order` being the permutation of its epoch."""
        rest, args = combine(arrays.frozen, self.static)
        params = combine(weights, rest)
        if arrays.data is None:
            return [params, *args]
        if self.batches is None:
            return [params, arrays.data, *args]
        return [params, self.batches.batch(arrays.data, order, step), *args]

    def step(self, carry: Carry, arrays: Arrays, first: Any) -> Carry:
        """One update, and whether everything in it is finite."""
        order = self.batches and self.batches.next_order(arrays.data_key, carry.step, carry.order)
        key = jax.random.fold_in(arrays.key, carry.step)

        def estimate(weights: PyTree) -> Any:
            arguments = self.arguments(weights, arrays, carry.step, order)
            return self.objective.value_and_grad(
                key, *arguments, num_samples=self.num_samples, state=carry.state
            )

        def loss_at(weights: PyTree) -> Any:
            """For a line search: the loss elsewhere, under the same noise."""
            arguments = self.arguments(weights, arrays, carry.step, order)
            return self.sign * self.objective.estimate(
                key, *arguments, num_samples=self.num_samples, argnums=0, state=carry.state
            )

        (value, grads), state = estimate(carry.weights)
        loss = self.sign * value
        slopes = jax.tree.map(lambda x: self.sign * jnp.conj(x), grads)  # for complex leaves
        with jax.numpy_dtype_promotion("standard"):  # Optax does not do with the strict one
            updates, opt_state = self.optimizer.update(
                slopes,
                carry.opt_state,
                carry.weights,
                value=loss,
                grad=slopes,
                value_fn=loss_at,
            )
            weights = optax.apply_updates(carry.weights, updates)
        checked = [value, *jax.tree.leaves(grads), *jax.tree.leaves(updates)]
        checked += floating(state).values()
        finite = jnp.stack([jnp.all(jnp.isfinite(x)) for x in checked])
        values = carry.values.at[carry.step - first].set(value.astype(carry.values.dtype))
        new = Carry(weights, opt_state, state, carry.step + 1, order, values, finite)
        return jax.tree.map(strong, new)

    def chunk(self, carry: Carry, stop: Any, arrays: Arrays) -> Carry:
        """Steps carry.step, ..., stop - 1, or up to and with the first that is not finite.

        A loop with its bound as an argument, so that one compilation serves chunks of any
        length. Nothing is donated: the carry before a chunk stays alive, for an interrupt or
        for taking the steps before a bad one again, and so do the caller's parameters.
        """
        first = carry.step

        def unfinished(carry: Carry) -> Any:
            return (carry.step < stop) & carry.finite.all()

        return jax.lax.while_loop(unfinished, lambda c: self.step(c, arrays, first), carry)


def partition(tree: PyTree, chosen: Callable[[Any], bool]) -> tuple[PyTree, PyTree]:
    """The chosen leaves and the others: two trees, with None for the leaves of the other."""
    return (
        jax.tree.map(lambda x: x if chosen(x) else None, tree),
        jax.tree.map(lambda x: None if chosen(x) else x, tree),
    )


def combine(chosen: PyTree, others: PyTree) -> PyTree:
    """The tree that `partition` took apart."""
    return jax.tree.map(
        lambda x, y: y if x is None else x, chosen, others, is_leaf=lambda x: x is None
    )


def is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | np.generic)


def is_trained(x: Any) -> bool:
    """Whether training changes a leaf of the parameters: the floating ones, Python's included."""
    return isinstance(x, float | complex) or (
        is_array(x) and bool(jnp.issubdtype(x.dtype, jnp.inexact))
    )


def floating(tree: PyTree) -> dict[str, Any]:
    """Its floating leaves, by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): x for path, x in leaves if is_trained(x)}


def strong(x: Any) -> Any:
    """x as an array whose dtype is not weak: a loop's carry keeps its type, and jit its cache."""
    if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
        return x
    return jnp.array(x, dtype=jnp.result_type(x))
