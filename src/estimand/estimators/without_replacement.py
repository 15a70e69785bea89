"""A set of distinct outcomes, drawn without replacement (the unordered set estimator).

Draw k distinct outcomes one after the other, each from p renormalised over what is left, and
forget their order: a set S, of probability P(S). Write S-s for S without s, P_s for the law of
what is drawn if s is taken away first, and R(S, s) = P_s(S-s) / P(S). Then for any function g

    E_S[sum_{s in S} R(S, s) g(s)] = sum_s g(s) sum_{S with s} P_s(S-s) = sum_s g(s),    (1)

since the sets S-s are all that can be drawn once s is taken away (Kool, van Hoof and Welling 2020,
section 3). With S and R held fixed and g = p f, E_S[sum_s p(s) sg(R(S, s)) f(s)] = E_p[f] is an
identity in the parameters of p and f, so that all of its derivatives are right.

Baseline. What the rest of the set says of E_p[f] does not depend on f(s),

    B(S, s) = p(s) f(s) + sum_{s' in S-s} p(s') R_s(S-s, s') f(s'),

where R_s is R once s is taken away: by (1), its mean given s is E_p[f]. So subtracting

    sum_s (p(s) - sg p(s)) sg(R(S, s) B(S, s)),   of value 0,

changes no mean: by (1) it has the mean sum_s (p(s) - sg p(s)) sg(E_p[f]) = 0, whatever the
parameters are, and so have its derivatives of every order. The first is the "built-in baseline"
of the paper's section 3.

Weights. Let h(T), for T in S, be the probability that S-T is drawn, in any order, once T is taken
away, divided by the product of p over S-T. With m(T) the probability of all that is not in T,

    h(S) = 1,   h(T) = 1/m(T) sum_{t in S-T} h(T + t),

so that p(s) R(S, s) = h({s}) / sum_t h({t}) and p(s') R_s(S-s, s') = h({s, s'}) / h({s}). These
sum to 1 and to m({s}). If fewer than k outcomes have a positive probability, h is of these alone,
and p(s) R(S, s) = p(s): enumeration. Here h is its logarithm.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dists

from estimand.errors import EstimandError, error, is_count, source_line
from estimand.estimators.enumerate import assignments
from estimand.transforms.distributions import unexpanded
from estimand.transforms.strategy import MOST_POINTS, Law, Strategy

MOST_DRAWS = 8  # their 2^k subsets are gone through


@dataclass(frozen=True)
class WithoutReplacement(Strategy):
    """k distinct outcomes of a Categorical, weighted so that they stand for all; any order.

    Costs k evaluations of what the site reaches. With k outcomes or fewer it enumerates them,
    and has no variance. Where lanes meet, an outcome is one of all lanes together: the
    probabilities of all of them are gone through, and k are evaluated.

    Args:
        k: the number of distinct outcomes, from 2 to 8.

    Raises:
        EstimandError: k is not an integer in this range.

    Example:
        >>> import estimand as em, jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> @em.expectation
        ... def cost(logits):
        ...     k = em.draw(dist.Categorical(logits=logits), via=em.WithoutReplacement(3))
        ...     return jnp.array([1.0, 2.0, 4.0])[k]
        >>> value, grad = cost.value_and_grad(jax.random.key(0), jnp.zeros(3))
        >>> round(float(value), 4), round(float(grad[2]), 4)  # all three: 7/3 and (4 - 7/3) / 3
        (2.3333, 0.5556)
    """

    k: int = 2

    caveat = "no derivative from points of probability zero"

    def __post_init__(self) -> None:
        if not is_count(self.k) or not 2 <= self.k <= MOST_DRAWS:
            raise error(
                f"em.WithoutReplacement ({source_line()})",
                "every subset of the k outcomes enters the weights, and one has no other to be "
                "compared with",
                expected=f"k, an integer from 2 to {MOST_DRAWS}",
                got=repr(self.k),
                remedy="write WithoutReplacement(4); Score() takes a single draw, and "
                "LeaveOneOut(n) any number",
            )

    def refuses(self, dist: Any) -> str | None:
        known = isinstance(unexpanded(dist), dists.CategoricalProbs | dists.CategoricalLogits)
        return None if known else "it is made for Categorical"

    def count(self, dist: Any, joint: int) -> int:
        return min(self.k, _size(dist) ** max(joint, 1))

    def points(self, key: Any, law: Law) -> Any:
        """The set; an outcome of probability zero is replaced by the first, which has some."""
        log_p, rows = _outcomes(law)  # [M, *batch_shape], [M, *lanes]
        log_p = jax.lax.stop_gradient(log_p)
        noisy = jnp.moveaxis(log_p + jax.random.gumbel(key, log_p.shape, log_p.dtype), 0, -1)
        which = jnp.moveaxis(jax.lax.top_k(noisy, min(self.k, len(rows)))[1], -1, 0)
        possible = jnp.take_along_axis(log_p, which, axis=0) > -jnp.inf
        which = jax.vmap(law.spread)(jnp.where(possible, which, which[:1]))
        which = jnp.broadcast_to(which, (len(which), *law.shape))
        values = jnp.take_along_axis(rows, which, axis=0).astype(jnp.result_type(int))
        return values[0] if len(values) == 1 else values

    def combine(self, law: Law, values: Any, f: Any) -> Any:
        if f.ndim == len(law.batch_shape):  # there is a single outcome
            return f
        log_p, _ = _outcomes(law)
        which = _position(law, values)  # [k, *batch_shape]
        first = jnp.arange(len(which)).reshape(-1, *(1,) * (which.ndim - 1)) == 0
        drawn = first | (which != which[:1])
        rest = jax.nn.logsumexp(_without(jax.lax.stop_gradient(log_p), which), axis=0)
        log_p = jnp.take_along_axis(log_p, which, axis=0)
        weights, others = _weights(jax.lax.stop_gradient(log_p), rest, drawn)
        ratio = jnp.exp(log_p - jax.lax.stop_gradient(log_p)).astype(f.dtype)
        weights, others = weights.astype(f.dtype), others.astype(f.dtype)
        baseline = jax.lax.stop_gradient(jnp.sum(others * f, axis=1))
        return jnp.sum(weights * (f * ratio + baseline * (1 - ratio)), axis=0)


def _size(dist: Any) -> int:
    return int(np.shape(unexpanded(dist).probs)[-1])


def _outcomes(law: Law) -> tuple[Any, Any]:
    """Log probabilities [M, *batch_shape] and values [M, *lanes] of all outcomes."""
    size = law.static(_size)
    meeting = [n for i, n in enumerate(law.shape) if i in law.joint]
    if meeting and size ** math.prod(meeting) > MOST_POINTS:
        raise _too_many(law, size, math.prod(meeting))

    def one(dist: Any) -> Any:
        return jnp.broadcast_to(
            jax.nn.log_softmax(unexpanded(dist).logits, axis=-1), (*dist.batch_shape, size)
        )

    log_p = jnp.moveaxis(law.map(one), -1, 0)  # [K, *lanes]
    rows = assignments(law, size)
    log_p = jnp.take_along_axis(log_p, rows, axis=0)
    log_p = jnp.sum(log_p, axis=tuple(1 + i for i in sorted(law.joint)))
    return log_p, jnp.broadcast_to(rows, (len(rows), *law.shape))


def _position(law: Law, values: Any) -> Any:
    """The position of values [k, *lanes] among all outcomes: digits, the last moves fastest."""
    sizes = [n if i in law.joint else 1 for i, n in enumerate(law.shape)]
    powers = law.static(_size) ** np.arange(math.prod(sizes))[::-1]
    digits = jnp.asarray(powers.reshape(sizes), values.dtype) * values
    return jnp.sum(digits, axis=tuple(1 + i for i in sorted(law.joint)))


def _without(log_p: Any, which: Any) -> Any:
    return jnp.put_along_axis(log_p, which, -jnp.inf, axis=0, inplace=False)


def _weights(log_p: Any, rest: Any, drawn: Any) -> tuple[Any, Any]:
    """p(s) R(S, s) [k, ...] and the weights [k, k, ...] of f(s') in B(S, s).

    From log p [k, ...] of the set, the log probability `rest` of what is outside of it, and the
    places that are `drawn` and not filled up.
    """
    k = len(log_p)
    subsets = np.array([[bool(t >> i & 1) for i in range(k)] for t in range(2**k)])
    following = np.arange(2**k)[:, None] | 1 << np.arange(k)  # [2^k, k]: T with t added
    shape = (2**k, k, *(1,) * (log_p.ndim - 1))
    left = drawn & ~subsets.reshape(shape)  # [2^k, k, ...]: t may be added to T
    masses = jnp.where(left, log_p, -jnp.inf)
    masses = jnp.concatenate([masses, jnp.broadcast_to(rest, (2**k, 1, *rest.shape))], axis=1)
    mass = jax.nn.logsumexp(masses, axis=1)
    ended = ~jnp.any(left, axis=1)
    h = jnp.zeros_like(mass)
    for _ in range(k):  # each round settles the subsets with one outcome less
        added = jax.nn.logsumexp(jnp.where(left, h[following], -jnp.inf), axis=1)
        h = jnp.where(ended, 0.0, added - mass)
    one = 1 << np.arange(k)
    weights = jax.nn.softmax(jnp.where(drawn, h[one], -jnp.inf), axis=0)
    both = drawn[:, None] & drawn[None] & ~np.eye(k, dtype=bool).reshape(k, k, *shape[2:])
    others = jnp.where(both, jnp.exp(h[one[:, None] | one] - h[one][:, None]), 0.0)
    own = np.eye(k).reshape(k, k, *shape[2:]).astype(log_p.dtype) * jnp.exp(log_p)
    return weights, others + own


def _too_many(law: Law, size: int, lanes: int) -> EstimandError:
    return error(
        f"site {law.label!r} ({law.site.source})",
        f"{lanes} of its lanes meet, and WithoutReplacement() goes through all outcomes of these",
        expected=f"at most {MOST_POINTS} outcomes",
        got=f"{size}^{lanes}",
        remedy="keep the lanes apart until the loss is summed, or use LeaveOneOut(n)",
    )
