"""Train the parameters of an objective: stochastic gradient steps, compiled in chunks."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree
from tqdm import tqdm

from estimand.errors import error, source_line
from estimand.ppl.arguments import check_arguments
from estimand.ppl.batches import check_batches
from estimand.ppl.fit import Fit, NonFiniteError, check_resume
from estimand.ppl.steps import (
    CHUNK,
    Arrays,
    Objective,
    Program,
    combine,
    floating,
    is_array,
    is_trained,
    partition,
    strong,
)
from estimand.transforms.seed import as_key

CHUNK_SECONDS = 0.25  # about how long a chunk takes: how often the bar moves and Ctrl-C is heard


def maximize(
    objective: Objective,
    params: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    key: Any,
    steps: int,
    args: Sequence[Any] = (),
    data: PyTree = None,
    batch_size: int | None = None,
    num_samples: int = 1,
    resume: Fit | None = None,
    callback: Callable[[int, float, PyTree], Any] | None = None,
    progress: bool = True,
) -> Fit:
    """Make `objective(params, *args)`, or `objective(params, batch, *args)`, large.

    Step t takes the gradient estimated with a key folded in from t, on batch t: a run is a
    function of its arguments, however it is cut by interruption and resumption. The steps
    are compiled once and run in chunks of up to a second or so. Ctrl-C ends training and
    returns what there is.

    Args:
        objective: made by `em.expectation`.
        params: any pytree. Its floating leaves are trained, Python's numbers included; integers,
            functions and other leaves stay as they are, so an Equinox module is a pytree of
            parameters. What is floating and must stay (a dropout rate, under weight decay)
            goes into `args`.
        optimizer: from Optax. It sees `params` with None for the leaves that are not trained.
        key: a JAX random key.
        steps: how many steps to take; with `resume`, how many more.
        args: the further arguments of the objective.
        data: a pytree of arrays of equal leading length, whose rows are drawn in batches.
            Include `jnp.arange(N)` where the objective needs the index of a datum. To scale
            a batch to the data, by N/B, is for the objective to do.
        batch_size: rows in a batch. An epoch is a fresh permutation cut to whole batches.
            None passes all of `data` at every step.
        num_samples: independent estimates to average at every step.
        resume: the run to continue, bit for bit as if it had not stopped. `params` and `key`
            must then be those of that run; only the structure of `params` is looked at.
        callback: called as `callback(step, value, params)` after every step, `step` being the
            number of steps taken; a true result ends training. Steps then run one at a
            time, like those of a hand-written loop, instead of in chunks.
        progress: show a progress bar with the running value and print, once, how every site
            is estimated.

    Raises:
        NonFiniteError: a value, gradient or update is not finite, or the new state of a strategy.
            The error names the first site where that happened, and carries the run so far as its
            `fit`.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist, optax
        >>> @em.expectation
        ... def closeness(params, target):
        ...     return -(em.draw(dist.Normal(params["mean"], 1.0)) - target) ** 2
        >>> fit = em.maximize(closeness, {"mean": 0.0}, optax.adam(0.1), key=jax.random.key(0),
        ...                   steps=300, args=(3.0,), num_samples=8, progress=False)
        >>> round(float(fit.params["mean"]))
        3
    """
    return _train(
        -1, objective, params, optimizer, key=key, steps=steps, args=args, data=data,
        batch_size=batch_size, num_samples=num_samples, resume=resume, callback=callback,
        progress=progress,
    )  # fmt: skip


def minimize(
    objective: Objective,
    params: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    key: Any,
    steps: int,
    args: Sequence[Any] = (),
    data: PyTree = None,
    batch_size: int | None = None,
    num_samples: int = 1,
    resume: Fit | None = None,
    callback: Callable[[int, float, PyTree], Any] | None = None,
    progress: bool = True,
) -> Fit:
    """Make an objective small: `maximize`, with the sign of the gradient turned."""
    return _train(
        1, objective, params, optimizer, key=key, steps=steps, args=args, data=data,
        batch_size=batch_size, num_samples=num_samples, resume=resume, callback=callback,
        progress=progress,
    )  # fmt: skip


def _train(
    sign: int,
    objective: Objective,
    params: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    key: Any,
    steps: int,
    args: Sequence[Any],
    data: PyTree,
    batch_size: int | None,
    num_samples: int,
    resume: Fit | None,
    callback: Callable[[int, float, PyTree], Any] | None,
    progress: bool,
) -> Fit:
    check_arguments(
        objective=objective, params=params, optimizer=optimizer, steps=steps, args=args,
        resume=resume, traced=(params, args, key, data),
    )  # fmt: skip
    steps = int(steps)
    batches = check_batches(data, batch_size)
    step_key, data_key, init_key = jax.random.split(as_key(key), 3)
    if resume is not None:
        check_resume(resume, params, optimizer, key)
        params = resume.params
    weights, rest = partition(params, is_trained)
    weights = jax.tree.map(strong, weights)
    frozen, static = partition((rest, tuple(args)), is_array)
    extended = optax.with_extra_args_support(optimizer)
    program = Program(objective, sign, extended, batches, num_samples, static)
    arrays = Arrays(step_key, data_key, jax.tree.map(jnp.asarray, data), frozen)
    first = program.arguments(weights, arrays, 0, program.order(arrays, 0))
    if resume is None:
        opt_state, state = optimizer.init(weights), objective.init(init_key, *first)
        resume = Fit(params, opt_state, state, 0, key, np.zeros(0, jnp.result_type(float)))
    if progress:
        print(objective.explain(*first))
    run = _Run(program, arrays, resume)
    _advance(run, steps, callback, progress)
    return run.fit


class _Run:
    """A run between two chunks."""

    def __init__(self, program: Program, arrays: Arrays, fit: Fit):
        weights, self.rest = partition(fit.params, is_trained)
        self.carry = program.begin(arrays, weights, fit.opt_state, fit.state, fit.step)
        self.history = [fit.history]
        self.program, self.arrays, self.key = program, arrays, fit.key
        self.chunk = jax.jit(program.chunk)

    @property
    def step(self) -> int:
        return int(self.carry.step)

    @property
    def params(self) -> PyTree:
        return combine(self.carry.weights, self.rest)

    @property
    def fit(self) -> Fit:
        history = np.concatenate(self.history)[: self.step]
        opt_state, state = self.carry.opt_state, self.carry.state
        return Fit(self.params, opt_state, state, self.step, self.key, history)

    def advance(self, stop: int) -> np.ndarray:
        """Take the steps up to `stop`, and return their values."""
        carry = self.chunk(self.carry, np.int32(stop), self.arrays)
        finite, values = np.asarray(carry.finite), np.asarray(carry.values)
        if not finite.all():  # take the steps before that one again, and stop there
            carry = self.chunk(self.carry, np.int32(carry.step - 1), self.arrays)
        taken = int(carry.step) - self.step
        self.history.append(values[:taken])  # first, so that an interrupt here does no harm
        self.carry = carry
        if not finite.all():
            message = self._explain_nonfinite(finite, float(values[taken]))
            raise NonFiniteError(message, self.fit)
        return values[:taken]

    def _explain_nonfinite(self, finite: np.ndarray, value: float) -> str:
        program, key = self.program, jax.random.fold_in(self.arrays.key, self.step)
        order = program.order(self.arrays, self.step)
        arguments = program.arguments(self.carry.weights, self.arrays, self.step, order)
        site = program.objective.find_nonfinite(
            key, *arguments, num_samples=program.num_samples, state=self.carry.state
        )
        paths = jax.tree_util.tree_flatten_with_path(self.carry.weights)[0]
        leaves = ["params" + jax.tree_util.keystr(path) for path, _ in paths]
        names = [f"the value ({value})"]
        names += [f"the {what} of {leaf}" for what in ("gradient", "update") for leaf in leaves]
        names += [f"the new state{path}" for path in floating(self.carry.state)]
        return str(
            error(
                f"training, step {self.step} ({source_line()})",
                site,
                expected="a finite value, gradient, update and state; training stopped before the "
                "update",
                got=", ".join(n for n, ok in zip(names, finite, strict=True) if not ok),
                remedy="the error's `fit` holds the parameters from before this step; check the "
                "data of the batch, a lower learning rate, or a parametrisation with bounds",
            )
        )


def _advance(run: _Run, steps: int, callback: Callable | None, progress: bool) -> None:
    if steps == 0:
        return
    stop, length = run.step + steps, 1
    try:
        run.advance(run.step)  # compiles, before the bar's clock starts
        with tqdm(initial=run.step, total=stop, disable=not progress) as bar:
            while run.step < stop:
                began = time.perf_counter()
                values = run.advance(min(run.step + length, stop))
                seconds = time.perf_counter() - began
                bar.set_postfix_str(f"value {values.mean():.4g}", refresh=False)
                bar.update(len(values))
                if callback is not None:
                    if callback(run.step, float(values[-1]), run.params):
                        break
                elif seconds < CHUNK_SECONDS:
                    length = min(2 * length, CHUNK)
                elif seconds > 4 * CHUNK_SECONDS:
                    length = max(length // 2, 1)
    except KeyboardInterrupt:
        if progress:
            print(f"interrupted after step {run.step}")
