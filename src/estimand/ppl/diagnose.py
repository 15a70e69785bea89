"""Strategies side by side: the variance of the gradient, where it comes from and what it costs.

Of a leaf of the gradient, g of mean m, the variance is tr Cov g, summed over the entries, and the
signal-to-noise ratio |m| / sqrt(tr Cov g). The mean of n samples costs n times as much and has
one n-th of the variance, so strategies are compared by variance x cost: the least needs the least
work for a given accuracy.

A zero is added to every parameter of a site, and the surrogate differentiated in it: that is the
gradient at the site itself, before the chain rule takes it to the arguments.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from estimand.errors import EstimandError, definition, error
from estimand.ppl.arguments import positive_count
from estimand.ppl.candidates import CANDIDATES, everywhere, is_biased, mistake, places, written
from estimand.ppl.diagnosis import Diagnosis, Row
from estimand.ppl.expectation import Expectation
from estimand.ppl.measure import Estimator, check_call, moments, named, seconds
from estimand.transforms.check import check
from estimand.transforms.guards import is_inexact
from estimand.transforms.interpret import Path
from estimand.transforms.seed import as_key
from estimand.transforms.staging import is_traced
from estimand.transforms.strategy import Strategy


def diagnose(
    objective: Expectation,
    *args: Any,
    key: Key[Array, ""],
    strategies: Mapping[str, Mapping[str, Strategy] | Strategy] | None = None,
    num_samples: int = 1024,
    argnums: int | Sequence[int] = 0,
) -> Diagnosis:
    """Measure an objective's gradient under several choices of strategies, at these arguments.

    Strategies that learn are trained for 500 steps at these arguments first; their state is then
    fixed. Time and FLOPs are those of a step of training with one sample, the training of their
    state included. Sites inside loops and branches have no rows of their own, and neither have
    parameters of sites that no differentiated argument moves.

    Args:
        key: of the samples, the same for all strategies.
        strategies: from a name to what `using` takes, or to one strategy, for all sites that can
            have it. Left out: the objective as it is, and every strategy of the package.
        num_samples: gradients per choice, rounded up to a multiple of 32.
        argnums: which arguments to differentiate.

    Returns:
        A `Diagnosis`: `print` it, `.plot()` it, or take the numbers with `.as_dict()`.

    Raises:
        EstimandError: a choice in `strategies` that the program cannot have. One of the
            package's is left out instead, and named under the table.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def heads(logits):
        ...     return 10.0 * em.draw(dist.Bernoulli(logits=logits)).astype(float)
        >>> found = em.diagnose(heads, 0.3, key=jax.random.key(0),
        ...     strategies={"score": em.Score(), "exact": em.Enumerate()})
        >>> rows = found.as_dict()["strategies"]
        >>> rows["exact"]["variance"]["value"], rows["score"]["variance"]["value"] > 1
        (0.0, True)
    """
    check_call("diagnose", objective, args)
    estimator, skipped = Estimator(objective, args, argnums), dict[str, str]()
    chosen: dict[str, Estimator] = {}
    tried: Mapping[str, Any] = _candidates() if strategies is None else strategies
    for name, strategy in tried.items():
        single = isinstance(strategy, Strategy)
        wanted = everywhere(estimator, strategy) if single else strategy
        other = estimator.using(wanted)
        reason = "no site can have it" if single and not wanted else mistake(other)
        if reason is None:
            chosen[name] = other
        elif strategies is None:
            skipped[name] = reason
        else:
            raise _cannot(objective, name, reason)
    samples = positive_count(num_samples), as_key(key)
    measured = {name: _measured(other, *samples) for name, other in chosen.items()}
    calls = [_call(chosen[name], state, key) for name, (_, state) in measured.items()]
    rows = [
        row._replace(name=name, seconds=time)
        for (name, (row, _)), time in zip(measured.items(), seconds(calls), strict=True)
    ]
    where = f"{objective.name} ({definition(objective.fun)})"
    inside = [info.label for path, info in estimator.plan.sites.items() if len(path) > 1]
    return Diagnosis(where, tuple(rows), skipped, tuple(dict.fromkeys(inside)))


def _candidates() -> dict[str, Any]:
    unbiased = {written(s): s for s in CANDIDATES if not is_biased(s)}
    return {"as it is": {}, **unbiased}


def _measured(estimator: Estimator, num_samples: int, key: Any) -> tuple[Row, Any]:
    training, key = jax.random.split(key)
    state = estimator.trained(training)
    chosen = {place.label: written(place.own) for place in places(estimator)}

    def sample(given: Any, key: Any) -> Any:
        return named(estimator.sample(given, key)[1]), _site_gradients(estimator, given, key)

    leaves, at_sites = moments(sample, (estimator.inputs, state), key, num_samples)
    work = estimator.flops()
    return Row("", chosen, leaves, at_sites, work, 0.0), state


def _call(estimator: Estimator, state: Any, key: Any) -> Any:
    """A call of one compiled step of training."""
    return partial(jax.jit(estimator.step), estimator.inputs, key, state)


def _site_gradients(estimator: Estimator, given: Any, key: Any) -> dict[str, Any]:
    """The derivative of one surrogate in every moved floating parameter of every site."""
    inputs, state = given
    objective, args = estimator.objective, estimator.arguments(inputs)
    staged, plan = objective._compile(args, False, estimator.argnums)
    nums = objective._positions(estimator.argnums, args)
    owners = [i for i, arg in enumerate(args) for x in jax.tree.leaves(arg) if is_traced(x)]
    pairs = zip(owners, staged.inputs, strict=True)
    check(plan, [i in nums and is_inexact(x) for i, x in pairs])  # says what they move

    def surrogate(zeros: dict[Path, list[Any]]) -> Any:
        return objective._run(staged, plan, key, state, zeros)[0]

    zeros = {
        path: [
            jnp.zeros(x.shape, x.dtype) if moved and is_inexact(x) else None
            for x, moved in zip(info.leaves, plan.moved[path], strict=True)
        ]
        for path, info in plan.sites.items()
        if len(path) == 1
    }
    found, seen = {}, Counter[str]()
    for path, slopes in jax.grad(surrogate)(zeros).items():
        info = plan.sites[path]
        seen[info.label] += 1
        label = info.label if seen[info.label] == 1 else f"{info.label}#{seen[info.label]}"
        for (name, _), slope in zip(info.site.structure.slots(), slopes, strict=True):
            if slope is not None:
                found[f"{label}.{name}"] = slope
    return found


def _cannot(objective: Expectation, name: str, reason: str) -> EstimandError:
    return error(
        objective.where,
        f"the strategies named {name!r} cannot be measured",
        expected="strategies that the program can have",
        got=reason,
        remedy="leave this name out, or correct it; strategies=None tries all that fit",
    )
