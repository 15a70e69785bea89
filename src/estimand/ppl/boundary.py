"""Where a derivative is at the boundary of what a probability can be, and no strategy has it.

With d E[f] = sum_x f(x) dp(x), an outcome x of probability zero that the arguments move contributes
f(x) dp(x). But estimators replace it by another point, or never draw it, and what they give instead
differs from one to the next, so that a comparison of two of them says nothing there.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dists

from estimand.estimators.enumerate import Enumerate
from estimand.ppl.learning import State, by_path
from estimand.ppl.measure import Estimator
from estimand.transforms.combine import Drawn, lifted
from estimand.transforms.distributions import unexpanded
from estimand.transforms.guards import is_inexact
from estimand.transforms.lift import Forward
from estimand.transforms.plan import static_distribution
from estimand.transforms.staging import is_traced

DRAWS = 64  # of the sites before, on which a probability may depend
SUPPORT = Enumerate()


def lost_derivatives(estimator: Estimator, state: State, key: Any) -> dict[str, list[np.ndarray]]:
    """For a site with such outcomes, the entries that they reach of every leaf of the gradient.

    Sites inside loops and branches are not looked at, nor supports that are not finite.
    """
    inputs, keys = estimator.inputs, jax.random.split(key, DRAWS)
    moved = _differentiated(estimator)

    def vanishing(free: Sequence[Any], key: Any) -> dict[str, Any]:
        full = list(inputs)
        for k, x in zip(moved, free, strict=True):
            full[k] = x
        return {where: total for where, (_, total) in _sites(estimator, full, key, state).items()}

    def some(key: Any) -> dict[str, Any]:
        return {where: zero for where, (zero, _) in _sites(estimator, inputs, key, state).items()}

    if not moved or not any(np.any(x) for x in jax.jit(jax.vmap(some))(keys).values()):
        return {}
    free = [jnp.asarray(inputs[k]) for k in moved]
    slopes = jax.jit(jax.vmap(jax.jacrev(vanishing), (None, 0)))(free, keys)
    masks = {
        where: [np.any(np.abs(np.asarray(x)) > 0, axis=0) for x in leaves]
        for where, leaves in slopes.items()
    }
    return {where: leaves for where, leaves in masks.items() if any(map(np.any, leaves))}


def _differentiated(estimator: Estimator) -> list[int]:
    """The positions among the inputs of the leaves of the gradient, in their order."""
    nums = estimator.objective._positions(estimator.argnums, estimator.args)
    owners = [
        i for i, arg in enumerate(estimator.args) for x in jax.tree.leaves(arg) if is_traced(x)
    ]
    pairs = list(zip(owners, estimator.inputs, strict=True))
    return [k for i in nums for k, (owner, x) in enumerate(pairs) if owner == i and is_inexact(x)]


def _sites(
    estimator: Estimator, inputs: Sequence[Any], key: Any, state: State
) -> dict[str, tuple[Any, Any]]:
    objective, args = estimator.objective, estimator.arguments(inputs)
    staged, plan = objective._compile(args, False, estimator.argnums)
    states = by_path(plan, state if state.parameters else None, objective.where)
    forward = Forward(plan, key, states)
    forward.run(staged.inputs)
    return {
        drawn.info.where: _vanishing(drawn, key)
        for drawn in forward.drawn.values()
        if drawn.recorded is None and SUPPORT.refuses(static_distribution(drawn.info)) is None
    }


def _vanishing(drawn: Drawn, key: Any) -> tuple[Any, Any]:
    """Whether an outcome has probability zero; and the sum of all that have, at random weights.

    It is zero, and its derivative is not, but by chance, if that of one of them is not.
    """

    def one(*parameters: Any) -> list[Any]:
        law = drawn.law(parameters, None, frozenset(), {})
        p = SUPPORT.weights(law, SUPPORT.points(key, law))
        ends = jnp.asarray(law.map(_at_an_end))
        total = [jnp.sum(jax.random.normal(key, x.shape, x.dtype) * x) for x in (_zeros(p), ends)]
        return [jnp.any(p == 0), sum(total)]

    zero, total = lifted(one, drawn.parameters)
    return jnp.any(zero.array), jnp.sum(total.array)


def _zeros(p: Any) -> Any:
    """Those of probabilities that are zero, with their derivatives, in the place of all."""
    return jnp.where(p == 0, p, 0)


def _at_an_end(dist: Any) -> Any:
    """For a binomial, whose weights have no derivative there, its probability at zero and one."""
    dist = unexpanded(dist)
    if not isinstance(dist, dists.BinomialProbs):
        return jnp.zeros(dist.batch_shape)
    return jnp.where((dist.probs == 0) | (dist.probs == 1), dist.probs, 0)
