"""Epochs of random batches, drawn on the device."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Key, PyTree

from estimand.errors import EstimandError, error, is_count, source_line


class Batches(NamedTuple):
    """How a data set of `size` rows is cut: every epoch is a fresh permutation of the rows, of
    which a last incomplete batch is left out.

    The batch of a step is a function of the key and the step alone, so a run that is resumed
    sees the batches that it would have seen.
    """

    size: int
    batch_size: int

    @property
    def per_epoch(self) -> int:
        return self.size // self.batch_size

    def order(self, key: Key[Array, ""], step: Int[Array, ""]) -> Int[Array, " size"]:
        """The permutation of the epoch that `step` belongs to."""
        epoch_key = jax.random.fold_in(key, step // self.per_epoch)
        return jax.random.permutation(epoch_key, self.size)

    def next_order(
        self, key: Key[Array, ""], step: Int[Array, ""], order: Int[Array, " size"]
    ) -> Int[Array, " size"]:
        """The same, given that of the step before: a new one where an epoch begins."""
        begins = step % self.per_epoch == 0
        return jax.lax.cond(begins, lambda: self.order(key, step), lambda: order)

    def batch(self, data: PyTree, order: Int[Array, " size"], step: Int[Array, ""]) -> PyTree:
        start = step % self.per_epoch * self.batch_size
        rows = jax.lax.dynamic_slice_in_dim(order, start, self.batch_size)
        return jax.tree.map(lambda x: x[rows], data)


def check_batches(data: PyTree, batch_size: int | None) -> Batches | None:
    """The batches of `data`; None where the objective sees no data, or all of it at once."""
    if data is None:
        if batch_size is not None:
            raise _batch_size_error(batch_size, "no data", "pass data=, or drop batch_size=")
        return None
    size = _common_length(data)
    if batch_size is None:
        return None
    if not is_count(batch_size) or batch_size < 1:
        raise _batch_size_error(batch_size, "a positive integer", "pass batch_size=1 or more")
    if batch_size > size:
        remedy = f"pass batch_size={size} or less, or None for all rows at every step"
        raise _batch_size_error(batch_size, f"at most the {size} rows of the data", remedy)
    return Batches(size, int(batch_size))


def _batch_size_error(batch_size: Any, expected: str, remedy: str) -> EstimandError:
    problem = "there are no batches of this size"
    return error(
        f"batch_size ({source_line()})",
        problem,
        expected=expected,
        got=repr(batch_size),
        remedy=remedy,
    )


def _common_length(data: PyTree) -> int:
    leaves = jax.tree_util.tree_flatten_with_path(data)[0]
    shapes = {"data" + jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}
    lengths = {shape[0] for shape in shapes.values() if shape}
    named = [f"{name} of shape {list(shape)}" for name, shape in shapes.items()]
    got = ", ".join(named[:8] + ["..."] * (len(named) > 8))
    if len(lengths) != 1 or not all(shapes.values()):
        raise error(
            f"data ({source_line()})",
            "the rows of the data are those of its arrays, one datum each",
            expected="a pytree of arrays of one and the same leading length",
            got=got or "no arrays",
            remedy="make each an array with the data along its leading axis; what is no data goes "
            "into args=",
        )
    if lengths == {0}:
        raise error(
            f"data ({source_line()})",
            "there is no datum to train on",
            expected="at least one row",
            got=got,
            remedy="check what was loaded; an objective without data takes data=None",
        )
    return lengths.pop()
