"""What an estimator does, and what it costs, at given arguments.

A sample is one estimate of the gradient. Samples are drawn in batches, of each of which the mean
and the variance are taken on the device; those of all batches are averaged in double precision.
The spread of the variance between batches is its standard error, whatever the distribution.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from estimand.errors import error, source_line
from estimand.ppl.expectation import Expectation
from estimand.ppl.learning import State
from estimand.ppl.steps import strong
from estimand.transforms.jaxprs import as_function, close, is_concrete, subjaxprs, trace
from estimand.transforms.plan import Plan
from estimand.transforms.staging import is_traced
from estimand.transforms.strategy import Strategy

BATCHES = 32
WARM_UP = 500  # steps by which strategies that learn are trained before they are measured
ROUNDS = 20  # calls of which the median time is taken
ROUNDING = 1e-5  # of the mean: a smaller standard deviation is that of rounding


@dataclass(frozen=True)
class Estimator:
    """An objective at its arguments, as functions of arrays that can be compiled."""

    objective: Expectation
    args: tuple[Any, ...]
    argnums: int | Sequence[int] = 0

    @property
    def inputs(self) -> list[Any]:
        """The arrays among the arguments."""
        return [x for x in jax.tree.leaves(self.args) if is_traced(x)]

    @cached_property
    def plan(self) -> Plan:
        return self.objective._compile(self.args, False, self.argnums)[1]

    def using(self, strategies: Mapping[str, Strategy]) -> "Estimator":
        return Estimator(self.objective.using(strategies), self.args, self.argnums)

    def arguments(self, inputs: Sequence[Any]) -> list[Any]:
        """The arguments with other arrays in them."""
        leaves, treedef = jax.tree.flatten(self.args)
        rest = iter(inputs)
        return jax.tree.unflatten(treedef, [next(rest) if is_traced(x) else x for x in leaves])

    @cached_property
    def staged(self) -> tuple[Any, Any]:
        """The jaxpr of a step and the tree of what it returns; raises what is wrong with it."""

        def step(inputs: Sequence[Any], key: Any, state: State) -> Any:
            args = self.arguments(inputs)
            return self.objective.value_and_grad(key, *args, argnums=self.argnums, state=state)

        key = jax.random.key(0)
        state = jax.eval_shape(lambda inputs: self.init(key, inputs), self.inputs)
        return trace(step, self.inputs, key, state)

    def init(self, key: Any, inputs: Sequence[Any]) -> State:
        return jax.tree.map(strong, self.objective.init(key, *self.arguments(inputs)))

    def step(self, inputs: Sequence[Any], key: Any, state: State) -> tuple[Any, State]:
        """((value, gradient), new state), as a step of training computes it."""
        jaxpr, shapes = self.staged
        outs = as_function(jaxpr)(*jax.tree.leaves((inputs, key, state)))
        return jax.tree.unflatten(jax.tree.structure(shapes), outs)

    def sample(self, given: tuple[Any, State], key: Any) -> Any:
        """One estimate (value, gradient); `given` are inputs and state."""
        return self.step(given[0], key, given[1])[0]

    def flops(self) -> float | None:
        """Floating-point operations of a step; None where XLA does not say.

        Of the program as it is handed to XLA, which is the same on every machine. A
        transcendental function counts as one. XLA counts the body of a loop once: here that of a
        `scan` counts once a step. The number of steps of a `while_loop` is not known.
        """
        return _flops(self.staged[0])

    def trained(self, key: Any, steps: int = WARM_UP) -> State:
        """The state after steps at these arguments; empty where nothing learns."""
        first, rest = jax.random.split(key)
        state = self.init(first, self.inputs)
        if not state.parameters:
            return state

        def body(t: Any, state: State) -> State:
            new = self.step(self.inputs, jax.random.fold_in(rest, t), state)[1]
            return jax.tree.map(strong, new)

        return jax.jit(lambda state: jax.lax.fori_loop(0, steps, body, state))(state)


@dataclass(frozen=True)
class Moments:
    """Of an array: mean and variance of its entries over samples.

    `traces` are the variances summed over the entries, one a batch.
    """

    mean: np.ndarray
    variance: np.ndarray
    traces: np.ndarray
    num_samples: int

    @property
    def error(self) -> np.ndarray:
        """The standard error of the mean."""
        return np.sqrt(self.variance / self.num_samples)

    @property
    def norm(self) -> float:
        return float(np.linalg.norm(np.ravel(self.mean)))

    @property
    def trace(self) -> float:
        """The variance summed over the entries; zero where it is that of rounding."""
        total = float(np.mean(self.traces))
        return 0.0 if total <= (ROUNDING * self.norm) ** 2 else total

    @property
    def trace_error(self) -> float:
        return float(np.std(self.traces, ddof=1)) / BATCHES**0.5 if self.trace else 0.0

    @property
    def snr(self) -> float:
        """|mean| / sqrt(trace): infinite without variance, zero without a mean."""
        return self.norm / self.trace**0.5 if self.trace else float("inf") if self.norm else 0.0


def together(parts: Sequence[Moments]) -> Moments:
    """Those of all the arrays in one row."""
    rows = [[np.ravel(x) for x in (m.mean, m.variance)] for m in parts] or [[np.zeros(0)] * 2]
    means, variances = (np.concatenate(x) for x in zip(*rows, strict=True))
    traces = sum((m.traces for m in parts), start=np.zeros(BATCHES))
    return Moments(means, variances, traces, parts[0].num_samples if parts else 0)


def named(gradient: PyTree) -> dict[str, Any]:
    """Its leaves by their names."""
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    return {"gradient" + jax.tree_util.keystr(path): x for path, x in leaves}


def moments(fun: Callable, given: Any, key: Any, num_samples: int) -> PyTree:
    """A `Moments` for every leaf of `fun(given, key)`, over as many keys."""
    size = max(2, -(-num_samples // BATCHES))

    @partial(jax.jit, compiler_options=_quickly())
    def batch(given: Any, keys: Any) -> Any:
        samples = jax.tree.map(_wide, jax.vmap(lambda key: fun(given, key))(keys))
        mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), samples)
        return mean, jax.tree.map(lambda x: jnp.var(x, axis=0, ddof=1), samples)

    keys = jax.random.split(key, (BATCHES, size))
    batches = [batch(given, keys[i]) for i in range(BATCHES)]

    def gathered(*parts: Any) -> np.ndarray:
        return np.stack([np.asarray(x).astype(_double(x)) for x in parts])

    def one(*parts: Any) -> Moments:
        means, variances = gathered(*parts[:BATCHES]), gathered(*parts[BATCHES:])
        traces = variances.reshape(BATCHES, -1).sum(axis=1)
        return Moments(means.mean(axis=0), variances.mean(axis=0), traces, BATCHES * size)

    means, variances = zip(*batches, strict=True)
    return jax.tree.map(one, *means, *variances)


def _quickly() -> dict[str, Any] | None:
    """What runs for moments need not be compiled to run as fast as it can."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None


def _wide(x: Any) -> Any:
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def _double(x: Any) -> type:
    return np.complex128 if jnp.iscomplexobj(x) else np.float64


def _flops(jaxpr: Any) -> float | None:
    total = _counted(jaxpr)
    if total is None:
        return None
    for body, length in _scans(jaxpr):
        once, each = _counted(body), _flops(body)
        total += length * (each or 0.0) - (once or 0.0)
    return total


def _counted(jaxpr: Any) -> float | None:
    """As XLA counts."""
    avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in close(jaxpr).jaxpr.invars]
    analysis = jax.jit(as_function(jaxpr)).lower(*avals).cost_analysis()
    if not isinstance(analysis, Mapping) or "flops" not in analysis:
        return None
    return float(analysis["flops"] + analysis.get("transcendentals", 0.0))


def _scans(jaxpr: Any) -> Any:
    """The bodies of the outermost scans, and their numbers of steps."""
    for eqn in close(jaxpr).jaxpr.eqns:
        for body in subjaxprs(eqn):
            if eqn.primitive.name == "scan":
                yield body, eqn.params["length"]
            else:
                yield from _scans(body)


def seconds(calls: Sequence[Callable[[], Any]]) -> list[float]:
    """The median time of each call, all of them in turns, so that they share what disturbs."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        jax.block_until_ready(call())  # compiles
    for _ in range(ROUNDS):
        for call, found in zip(calls, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in times]


def check_call(name: str, objective: Any, args: Any) -> None:
    """Refuse what is no objective, and a call that is itself being compiled."""
    if not isinstance(objective, Expectation):
        raise error(
            f"em.{name} ({source_line()})",
            "it takes an objective",
            expected="what em.expectation makes",
            got=type(objective).__name__,
            remedy="put @em.expectation on the function",
        )
    if not all(map(is_concrete, jax.tree.leaves(args))):
        raise error(
            f"em.{name} ({source_line()})",
            "it compiles its own estimates, and looks at the numbers",
            expected="a plain call",
            got="a call inside jit, vmap or grad",
            remedy="call it outside",
        )


def aligned(rows: Sequence[Sequence[str]], left: int = 1, last: bool = False) -> list[str]:
    """Rows as lines with aligned columns: the first `left` of them, and the last, to the left."""
    count = len(rows[0])
    widths = [max(len(row[i]) for row in rows) for i in range(count)]

    def cell(i: int, text: str) -> str:
        to_left = i < left or (last and i == count - 1)
        return text.ljust(widths[i]) if to_left else text.rjust(widths[i])

    return ["  ".join(cell(i, x) for i, x in enumerate(row)).rstrip() for row in rows]
