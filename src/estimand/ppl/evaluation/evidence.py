r"""The log evidence log p(x) of what was observed, and how far its estimate is to be trusted.

With independent unbiased estimates w_1, ..., w_n of p(x), be they importance weights or what runs
of a particle filter give,

    log Z = log (1/n) sum_i w_i,        E[Z] = p(x),

and to first order log Z - log p(x) = (Z - p(x)) / p(x) (the delta method), so that

    standard error = sd(w) / (sqrt(n) mean(w)).

To second order E[log Z] = log p(x) - standard error^2 / 2: log Z is a lower bound on average. All
of this takes weights with a variance, and enough of them to have seen it. The effective sample
size (sum w)^2 / sum w^2 says how many equal weights would have the same spread; if a few weights
are most of the sum, what was seen is not all there is. `psis` says from their tail whether there
is a variance at all, k < 1/2. A mode that no particle came near shows in neither.
"""

import math
import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from estimand.errors import error, source_line
from estimand.ppl.arguments import check_arguments
from estimand.ppl.evaluation.chunks import conditioned, in_chunks
from estimand.ppl.evaluation.psis import psis
from estimand.ppl.exact import Exact
from estimand.ppl.gen import GenerativeFunction
from estimand.ppl.importance import Importance
from estimand.ppl.language import seed
from estimand.ppl.target import Target
from estimand.transforms.jaxprs import is_concrete
from estimand.transforms.seed import as_key
from estimand.transforms.weights import log_mean_exp

HIGHEST_K = 0.7  # Vehtari et al. 2024, section 3.2.4
LEAST_ESS = 0.05  # of the number of weights


class Evidence(NamedTuple):
    """An estimate of log p(x), from n independent unbiased estimates of p(x), its weights.

    Attributes:
        value: log of the mean weight.
        standard_error: of `value`; NaN for a single weight. It is too small where `pareto_k` is
            over 1/2, since the weights then have no variance.
        effective_sample_size: (sum w)^2 / sum w^2, between 1 and n; 0 if all weights are zero.
        pareto_k: of the tail of the weights, as `psis` estimates it; NaN for less than 25 of them.
        num_weights: n, the number of particles of `Importance`, and of runs of another method.
    """

    value: Float[Array, ""]
    standard_error: Float[Array, ""]
    effective_sample_size: Float[Array, ""]
    pareto_k: Float[Array, ""]
    num_weights: int


def log_marginal_likelihood(
    model: GenerativeFunction,
    observed: dict[str, Any],
    *args: Any,
    via: Any = None,
    key: Key[Array, ""],
    num_runs: int = 1,
    chunk: int | None = None,
) -> Evidence:
    r"""log p(x) of a model's observed choices, the others integrated out: log evidence.

        log Z = log (1/n) sum_i w_i,   E[Z] = p(x),   standard error = sd(w) / (sqrt(n) mean(w))

    With `Importance` each particle is one w_i. A method whose particles depend on each other gives
    one w_i a run, so that only several runs have a standard error. `Enumerate` is exact: its
    standard error is zero, its one weight is constant (pareto_k is -inf), and it needs one run.

    It may be used inside `jit` and `vmap`, for example once per datum; nothing can be raised or
    warned of there, so look at the fields.

    Args:
        model: a generative function.
        observed: choices, as for `assess`; the rest of the addresses are integrated out.
        args: of the model.
        via: as for `GenerativeFunction.marginal`.
        key: of all particles. That of particle i is the same whatever the chunk.
        num_runs: independent runs of the method, averaged; of `Importance` the particles of all.
        chunk: how many particles (or runs) at a time, which is what takes memory; None for all.

    Returns:
        `Evidence(value, standard_error, effective_sample_size, pareto_k, num_weights)`.

    Raises:
        EstimandError: choices or a proposal that do not fit the model, a chunk or num_runs below
            one, and weights that are NaN or +inf.

    Warns:
        UserWarning: pareto_k over 0.7, an effective sample size under 5 percent of the weights,
            or weights that are all zero, with value -inf.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def model():
        ...     u = em.sample("u", dist.Normal(0.0, 1.0))
        ...     em.sample("x", dist.Normal(u, 1.0))
        >>> prior = em.Importance(n=10_000)
        >>> found = em.log_marginal_likelihood(
        ...     model, {"x": 1.0}, via=prior, key=jax.random.key(0), chunk=1_000)
        >>> bool(abs(found.value - (-1.5155)) < 3 * found.standard_error)  # log N(1; 0, 2)
        True
        >>> float(found.standard_error), float(found.effective_sample_size)
        (0.006..., 73...)
    """
    where = f"em.log_marginal_likelihood ({source_line()})"
    check_arguments(None, num_runs=num_runs, chunk=chunk)
    method, target = conditioned(model, observed, args, via, where)
    exact = isinstance(method, Exact)
    one, count = method, 1 if exact else int(num_runs)
    if isinstance(method, Importance):
        one, count = replace(method, n=1), count * method.n

    def weights(key: Any, target: Target) -> Float[Array, " n"]:
        return in_chunks(lambda key, _: _weight(one, target, key), key, count, chunk)

    found = jax.jit(weights)(as_key(key), target)
    _refuse_broken(found, where)
    if exact:
        none, unit = jnp.zeros_like(found[0]), jnp.ones_like(found[0])
        return Evidence(found[0], none, unit, -jnp.inf * unit, 1)
    evidence = evidence_of(found)
    _warn(evidence, where)
    return evidence


def _weight(method: Any, target: Target, key: Any) -> Float[Array, ""]:
    return seed(lambda: method.log_evidence(target))(key)


def evidence_of(log_weights: Float[Array, " n"]) -> Evidence:
    value, uncertainty, size, k = _summary(log_weights)
    return Evidence(value, uncertainty, size, k, log_weights.size)


@jax.jit
def _summary(log_weights: Float[Array, " n"]) -> tuple[Any, Any, Any, Any]:
    n = log_weights.size
    value = log_mean_exp(log_weights)
    possible = value > -jnp.inf
    ratios = jnp.exp(log_weights - jnp.where(possible, value, 0.0))  # of weights to their mean
    spread = jnp.std(ratios, ddof=1) if n > 1 else jnp.full_like(value, jnp.nan)
    uncertainty = jnp.where(possible, spread / math.sqrt(n), jnp.nan)
    mean_square = jnp.where(possible, jnp.mean(ratios**2), 1.0)
    size = jnp.where(possible, n / mean_square, 0.0)
    return value, uncertainty, size, psis(log_weights).pareto_k


def _refuse_broken(log_weights: Float[Array, " n"], where: str) -> None:
    if not is_concrete(log_weights):
        return
    weights = np.asarray(log_weights)
    broken = np.flatnonzero(~(weights < np.inf))
    if broken.size:
        raise error(
            where,
            f"{broken.size} of {weights.size} log weights are no logarithms of weights",
            expected="numbers, or -inf for a weight of zero",
            got=f"{weights[broken[0]]}",
            remedy="check the data and the arguments for NaN; Trace.log_densities of a run, and of "
            "the proposal's, says which site it is",
        )


def _warn(found: Evidence, where: str) -> None:
    """Say what is wrong with an estimate, where it is known now."""
    if not is_concrete(found.value):
        return
    n, size, k = found.num_weights, float(found.effective_sample_size), float(found.pareto_k)
    if size == 0.0:
        problem, got = "no draw can have led to the observed choices", f"{n} weights of zero"
        expected = "a weight that is not zero"
    elif k > HIGHEST_K:
        problem = "neither the value nor its standard error can be relied on"
        expected = f"weights with a tail of pareto_k <= {HIGHEST_K}"
        got = f"pareto_k = {k:.2f}, effective sample size {size:.3g} of {n}"
    elif size < LEAST_ESS * n:
        problem = "a few weights are most of the sum"
        expected = f"an effective sample size of {LEAST_ESS:.0%} of the weights or more"
        got = f"{size:.3g} of {n}"
    else:
        return
    remedy = "give a proposal that is nearer to the posterior and has heavier tails than it, as in "
    remedy += "em.Importance(guide, n)"
    text = error(where, problem, expected=expected, got=got, remedy=remedy)
    warnings.warn(str(text), stacklevel=3)
