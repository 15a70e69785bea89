"""Loops in which choices are summed out: messages from the last step to the first.

With c_t the carry before step t and z_t the choices of that step,

    beta_t(c_t) = log sum_{z_t} exp(weights_t(c_t, z_t) + beta_{t+1}(c_{t+1}(z_t))),

where c_{t+1} must be a function of z_t, and not of earlier choices. Two loops: one forward for
the carries at all points, one backward for the messages. T steps of K points cost T K^2, in a
program whose size does not depend on T. The first step stands before the loops, because the
first carry may depend on choices that are not of a step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from estimand.errors import EstimandError, error
from estimand.transforms.combine import Lifted, lifted
from estimand.transforms.dependence import Analysis
from estimand.transforms.factors import Eliminated, Factor, kind_of, renamed, renamed_factor
from estimand.transforms.interpret import Path, split_at
from estimand.transforms.jaxprs import Equation, scan_arity
from estimand.transforms.sources import source_of

BEFORE = 1_000_000  # site s as it was in the step before is called s - BEFORE


@dataclass(frozen=True)
class Lost:
    """A value that depends on a loop's choices, after the loop, where they are summed out.

    A log weight of the loop's own is `counted`: it is among the factors.
    """

    source: str
    counted: bool = False


class Chain:
    """The scan `eqn`, whose body is evaluated and summed by `whole`.

    `weights` are the positions of log weights among the body's outputs, and how often each counts.
    """

    def __init__(
        self, whole: Any, body: Analysis, eqn: Equation, path: Path, weights: Mapping[int, int]
    ):
        self.whole, self.body, self.eqn, self.path = whole, body, eqn, path
        self.weights = weights
        self.num_consts, self.num_carry = scan_arity(eqn)
        self.length, self.source = eqn.params["length"], source_of(eqn)
        self.own = whole.own(path)
        self.aged = {s: s - BEFORE for s in self.own}
        self.renewed = {s - BEFORE: s for s in self.own}

    def run(self, operands: Sequence[Lifted]) -> tuple[list[Any], list[Factor]]:
        """The scan's results, and the weights of its steps with their choices summed out."""
        consts, init, xs = split_at(operands, self.num_consts, self.num_carry)
        if not self.length:
            empty = [jnp.zeros(v.aval.shape, v.aval.dtype) for v in self.eqn.outvars]
            return [*init, *(Lifted(x, ()) for x in empty[self.num_carry :])], []
        rows = [self._rows(x) for x in xs]
        self.consts, self.axes = consts, [x.axes for x in xs]
        first = self._step(init, [row[0] for row in rows])
        carry = [renamed(c, self.aged) for c in first.outs[: self.num_carry]]
        self.whole.chains[self.path] = self
        ys, factors = first.outs[self.num_carry :], first.factors
        later: list[Any] = [None for _ in ys]
        if self.length > 1:
            rest = [row[1:] for row in rows]
            carry, entries, later = self._forward(carry, rest)
            factors = factors + self._backward(entries, rest)
        self.first = init, [row[0] for row in rows], factors[len(first.factors) :]
        factors, _ = self.whole.eliminate(factors, self.path)
        outs: list[Any] = [self._outside(c) for c in carry]
        stacked = [self._stacked(*pair) for pair in zip(ys, later, strict=True)]
        counted = Lost(self.source, counted=True)
        outs += [counted if k in self.weights else y for k, y in enumerate(stacked, len(outs))]
        return outs, factors

    def _rows(self, x: Lifted) -> Any:
        """[T, *axes, ...], in the order in which the steps are taken."""
        rows = jnp.moveaxis(x.array, len(x.axes), 0)
        return jnp.flip(rows, 0) if self.eqn.params["reverse"] else rows

    def _step(self, carry: Sequence[Lifted], row: Sequence[Any]) -> Any:
        xs = [Lifted(x, axes) for x, axes in zip(row, self.axes, strict=True)]
        step = self.whole.run(self.body, self.path, [*self.consts, *carry, *xs], self.weights)
        for c in step.outs[: self.num_carry]:
            if isinstance(c, Lost):
                raise self.whole.used_after(c)
            if set(c.axes) & set(self.renewed):
                raise self._not_markov(c)
        return step

    def _forward(self, carry: list[Lifted], rest: list[Any]) -> tuple[list, list, list]:
        """The last carry, the carries before all later steps, and what those give."""
        kinds: list[tuple[int, ...]] = []
        outside: list[Any] = []

        def advance(carry: list[Any], row: list[Any]) -> tuple[list[Any], Any]:
            step = self._step([Lifted(c, k) for c, k in zip(carry, axes, strict=True)], row)
            new = [renamed(c, self.aged) for c in step.outs[: self.num_carry]]
            kinds[:] = [c.axes for c in new]
            ys = [self._outside(y) for y in step.outs[self.num_carry :]]
            outside[:] = [y if isinstance(y, Lost) else y.axes for y in ys]
            sizes.update(_sizes(new))
            kept = [y.array for y in ys if not isinstance(y, Lost)]
            self.whole.forget(self.path)
            return [_expanded(c, k, sizes) for c, k in zip(new, axes, strict=True)], (carry, kept)

        sizes, axes = _sizes(carry), [c.axes for c in carry]
        while True:
            arrays = [_expanded(c, k, sizes) for c, k in zip(carry, axes, strict=True)]
            jax.eval_shape(advance, arrays, [row[0] for row in rest])
            union = [tuple(sorted({*a, *b})) for a, b in zip(axes, kinds, strict=True)]
            if union == axes:
                break
            axes = union
        last, (entries, kept) = lax.scan(advance, arrays, rest, length=self.length - 1)
        rows = iter(kept)
        ys = [y if isinstance(y, Lost) else Lifted(next(rows), y) for y in outside]
        self.carried = axes
        return [Lifted(c, k) for c, k in zip(last, axes, strict=True)], entries, ys

    def _backward(self, entries: list[Any], rest: list[Any]) -> list[Factor]:
        """The message to the first step, as factors of its choices."""
        kinds: dict[Any, Any] = {}  # from the kind of a factor to its shape and dtype

        def summed(message: list[Any], row: Any) -> dict[Any, Any]:
            factors, _ = self._sum(row, _named(message, kinds))
            renewed = [renamed_factor(f, self.renewed) for f in factors]
            self.whole.forget(self.path)
            return {kind_of(f): f.array for f in renewed}

        def back(message: list[Any], row: Any) -> tuple[list[Any], list[Any]]:
            found = summed(message, row)
            return [found.get(k, jnp.zeros(x.shape, x.dtype)) for k, x in kinds.items()], message

        last = jax.tree.map(lambda x: x[-1], (entries, rest))
        while True:
            message = [jnp.zeros(x.shape, x.dtype) for x in kinds.values()]
            found = _kinds(summed, message, last)
            new = {k: x for k, x in found.items() if k not in kinds}
            if not new:
                break
            kinds.update(new)
        message, messages = lax.scan(
            back, message, (entries, rest), length=self.length - 1, reverse=True
        )
        self.later = entries, rest, messages, kinds
        return _named(message, kinds)

    def _sum(
        self, row: tuple[list[Any], list[Any]], message: list[Factor]
    ) -> tuple[list[Factor], list[Eliminated]]:
        """A later step, its choices summed out, from its carry at all points."""
        entry, x = row
        step = self._step([Lifted(c, k) for c, k in zip(entry, self.carried, strict=True)], x)
        return self.whole.eliminate([*step.factors, *message], self.path)

    def sample(self, points: Mapping[int, Any]) -> dict[int, Any]:
        """Choices of all steps from their distribution given that of the other axes' points.

        The messages say what is to come, so the steps are drawn from the first to the last. The
        values of this body's sites, and of those in loops inside of it, with the steps leading.
        """
        init, row, message = self.first
        begun = self._step(init, row)  # again, for the loops inside of it
        _, done = self.whole.eliminate([*begun.factors, *message], self.path)
        first, values = self.whole.draw(done, points, self.path)
        stacked = {s: v[None] for s, v in values.items()}
        if self.length > 1:
            entries, rest, messages, kinds = self.later

            def step(last: dict[int, Any], row: Any) -> tuple[dict[int, Any], dict[int, Any]]:
                entry, x, message = row
                _, done = self._sum((entry, x), _named(message, kinds))
                before = {self.aged[s]: k for s, k in last.items()}
                found = self.whole.draw(done, {**points, **before}, self.path)
                self.whole.forget(self.path)
                return found

            _, rows = lax.scan(step, first, (entries, rest, messages), length=self.length - 1)
            stacked = {s: jnp.concatenate([v, rows[s]]) for s, v in stacked.items()}
        if self.eqn.params["reverse"]:
            stacked = {s: jnp.flip(v, 0) for s, v in stacked.items()}
        return stacked

    def _outside(self, x: Lifted | Lost) -> Lifted | Lost:
        """A value as it is seen after the loop."""
        inner = {*self.own, *self.renewed}
        return Lost(self.source) if isinstance(x, Lost) or inner & set(x.axes) else x

    def _stacked(self, first: Any, later: Any) -> Lifted | Lost:
        """A result of all steps, of which `later` has all but the first."""
        first = self._outside(first)
        if isinstance(first, Lost) or isinstance(later, Lost):
            return Lost(self.source)
        steps = [Lifted(jnp.expand_dims(first.array, len(first.axes)), first.axes)]
        if later is not None:
            steps.append(Lifted(jnp.moveaxis(later.array, 0, len(later.axes)), later.axes))

        def stack(*rows: Any) -> list[Any]:
            out = jnp.concatenate(rows)
            return [jnp.flip(out, 0) if self.eqn.params["reverse"] else out]

        return lifted(stack, steps)[0]

    def _not_markov(self, carry: Lifted) -> EstimandError:
        steps = [s for s in carry.axes if s in self.renewed]
        names = ", ".join(repr(self.whole.sites[self.renewed[s]].label) for s in steps)
        return error(
            f"scan ({self.source})",
            f"its carry brings choices of {names} over more than one step, so that the states to "
            "be summed over would multiply at each",
            expected="a carry that is a function of the choices of its own step",
            got="one that also depends on those of the step before",
            remedy="carry the last choice only, make pairs of choices one choice, or integrate by "
            "em.SMC(...)",
        )


def _kinds(summed: Callable, message: list[Any], row: Any) -> dict[Any, jax.ShapeDtypeStruct]:
    """The kinds of factors that come out of a step, which are static."""
    names: list[Any] = []

    def arrays(message: list[Any], row: Any) -> list[Any]:
        found = summed(message, row)
        names[:] = found
        return list(found.values())

    shapes = jax.eval_shape(arrays, message, row)
    return dict(zip(names, shapes, strict=True))


def _named(message: list[Any], kinds: Mapping[Any, Any]) -> list[Factor]:
    return [Factor(x, kind[0], dict(kind[1])) for x, kind in zip(message, kinds, strict=True)]


def _sizes(values: Sequence[Lifted]) -> dict[int, int]:
    return {a: n for x in values for a, n in zip(x.axes, jnp.shape(x.array), strict=False)}


def _expanded(x: Lifted, axes: tuple[int, ...], sizes: Mapping[int, int]) -> Any:
    """The array with all of these axes."""
    array = x.array
    for i, axis in enumerate(axes):
        if axis not in x.axes:
            array = jnp.expand_dims(array, i)
    rest = array.shape[len(axes) :]
    return jnp.broadcast_to(array, (*(sizes[a] for a in axes), *rest))
