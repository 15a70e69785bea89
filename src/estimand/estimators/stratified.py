"""Stratified sampling of a mixture: the component is enumerated, its draw is pathwise.

With mixing probabilities pi_k and components q_k, of which x_k = g_k(eps_k) is a draw,

    E_{x ~ sum_k pi_k q_k}[f(x)] = sum_k pi_k E_{x ~ q_k}[f(x)] = E_eps[sum_k pi_k f(g_k(eps_k))]

(Roeder, Wu and Duvenaud 2017, on mixtures; Morningstar et al. 2021, who call it stratified).
Given the noise, the sum is a function of the parameters alone, and smooth where f and the g_k
are: its derivatives of every order are unbiased, in the mixing probabilities as in the
parameters of the components. A component that is chosen by sampling and then reparameterised
has no derivative in pi at all.

Lanes that meet are one random vector, a mixture of the K^n choices of a component in each lane,
with the products of their probabilities.

A component of probability exactly zero has the draw of the most probable one, with weight zero:
f may be infinite or undefined at its own. The value is exact; what is dropped is the one-sided
derivative at the boundary of a free probability.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dists
from numpyro.distributions import constraints

from estimand.estimators.enumerate import assignments
from estimand.transforms.distributions import probabilities, unexpanded
from estimand.transforms.strategy import Law, Strategy

MIXTURES = (dists.MixtureSameFamily, dists.MixtureGeneral)


@dataclass(frozen=True)
class Stratified(Strategy):
    """One pathwise draw of every component of a mixture; any order of what is smooth.

    Costs K evaluations of what the site reaches, and K^n where n of its lanes meet. For
    mixtures of reparameterised components that all have the same, fixed support.

    Example:
        >>> import estimand as em, jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> def mixture(logits, means):
        ...     return dist.MixtureSameFamily(dist.Categorical(logits=logits),
        ...                                   dist.Normal(means, 1.0))
        >>> @em.expectation
        ... def square(logits, means):
        ...     return em.draw(mixture(logits, means), via=em.Stratified()) ** 2
        >>> @em.expectation
        ... def by_hand(logits, means):  # the same program
        ...     k = em.draw(dist.Categorical(logits=logits), via=em.Enumerate())
        ...     return em.draw(dist.Normal(means[k], 1.0), via=em.Pathwise()) ** 2
        >>> at = jnp.zeros(2), jnp.array([0.0, 4.0])
        >>> for objective in (square, by_hand):  # pi_1 pi_2 (4^2 - 0^2) = 4
        ...     grad = objective.grad(jax.random.key(0), *at, num_samples=10_000)
        ...     print(bool(abs(grad[1] - 4.0) < 0.2))
        True
        True
    """

    through = True
    caveat = "no derivative from components of probability zero"

    def refuses(self, dist: Any) -> str | None:
        dist = unexpanded(dist)
        if isinstance(dist, dists.Independent) and isinstance(unexpanded(dist.base_dist), MIXTURES):
            return "it takes no to_event(); without it, lanes that meet are one vector anyway"
        if not isinstance(dist, MIXTURES):
            return "it is made for mixtures, MixtureSameFamily and MixtureGeneral"
        components = _components(dist)
        fixed = [d for d in components if not d.has_rsample]
        if fixed:
            return f"a component, {type(fixed[0]).__name__}, has no reparameterised sampler"
        supports = [_bare(d.support) for d in components]
        if any(not isinstance(s, constraints.ParameterFreeConstraint) for s in supports):
            return "the support of a component depends on its parameters"
        if any(s != supports[0] for s in supports):
            return "its components have different supports, at whose edges its density jumps"
        return None

    def count(self, dist: Any, joint: int) -> int:
        return unexpanded(dist).mixture_size ** max(joint, 1)

    def points(self, key: Any, law: Law) -> Any:
        keys = jax.random.split(key, law.site.lanes) if law.site.lanes else key
        event = len(law.static(lambda dist: dist.event_shape))
        draws = jnp.moveaxis(law.map(_draws, keys), -event - 1, 0)  # [K, *lanes, *event]
        if len(draws) == 1:
            return draws[0]

        def wide(x: Any) -> Any:
            return jnp.reshape(x, x.shape + (1,) * event)

        probs = jax.lax.stop_gradient(_probs(law))
        best = jnp.argmax(probs, axis=0, keepdims=True)
        likely = jnp.take_along_axis(draws, wide(best), axis=0)
        draws = jnp.where(wide(probs) > 0, draws, likely)
        return jnp.take_along_axis(draws, wide(assignments(law, len(draws))), axis=0)

    def combine(self, law: Law, values: Any, f: Any) -> Any:
        if f.ndim == len(law.batch_shape):  # there is a single component
            return f
        probs = _probs(law)
        probs = jnp.take_along_axis(probs, assignments(law, len(probs)), axis=0)
        weights = jnp.prod(probs, axis=tuple(1 + i for i in sorted(law.joint)))
        return jnp.sum(weights.astype(f.dtype) * f, axis=0)


def _components(mixture: Any) -> list[Any]:
    if isinstance(mixture, dists.MixtureGeneral):
        return mixture.component_distributions
    return [mixture.component_distribution]


def _bare(support: Any) -> Any:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _draws(dist: Any, key: Any) -> Any:
    """One draw of every component, [*batch, K, *event]."""
    mixture, batch = unexpanded(dist), dist.batch_shape
    components = _components(mixture)
    if isinstance(mixture, dists.MixtureSameFamily):
        return components[0].expand((*batch, mixture.mixture_size)).sample(key)
    keys = jax.random.split(key, len(components))
    drawn = [d.expand(batch).sample(k) for d, k in zip(components, keys, strict=True)]
    return jnp.stack(drawn, axis=len(batch))


def _probs(law: Law) -> Any:
    """The mixing probabilities, [K, *lanes]."""

    def one(dist: Any) -> Any:
        return probabilities(unexpanded(dist).mixing_distribution, dist.batch_shape)

    return jnp.moveaxis(law.map(one), -1, 0)
