"""Is an estimator unbiased? A test with stated power, and the site at fault.

With m the mean of n estimates and e its standard error, an estimate of the right answer a is

    biased if |m - a| >= 5 e,   and a bias of 8 e would have been seen.

An unbiased one fails the first but once in a million (more often where it is far from normal, and
for many parameters), so a failure counts only if it is there again with new keys and four times
as many estimates. Where a is itself the mean of estimates, by another strategy, m - a is the mean
of differences under common keys. Both bounds have the allowance for rounding added to them that an
estimator without variance needs.

Entries of the gradient that have no derivative to compare with (`boundary.py`) are left out.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key, PyTree

from estimand.errors import EstimandError, error
from estimand.estimators.enumerate import Enumerate
from estimand.estimators.measure_valued import MeasureValued
from estimand.estimators.pathwise import Pathwise
from estimand.estimators.score import Score
from estimand.ppl.arguments import positive_count
from estimand.ppl.bias_check import BiasCheck, leaf_of
from estimand.ppl.boundary import lost_derivatives
from estimand.ppl.candidates import Place, mistake, overrides, places, written
from estimand.ppl.expectation import Expectation
from estimand.ppl.measure import Estimator, check_call, moments
from estimand.transforms.seed import as_key
from estimand.transforms.strategy import MOST_POINTS, Strategy

AGAIN = 4  # how many times more estimates confirm a bias
REFERENCES = (Enumerate(cap=MOST_POINTS), Score(), Pathwise(), MeasureValued())


def check_unbiased(
    objective: Expectation,
    *args: Any,
    key: Key[Array, ""],
    exact: tuple[Any, PyTree] | None = None,
    argnums: int | Sequence[int] = 0,
    num_samples: int = 4096,
) -> BiasCheck:
    """Check that value and gradient are unbiased at these arguments, and how small a bias shows.

    The right answer is `exact`; or it comes from enumeration, where all sites have finite
    supports of at most 65,536 points together; or from the same program with a reference at
    every site: Enumerate, Score, Pathwise or MeasureValued, the first that the site can have and
    has not. A site for which there is none is named under the table. Strategies that learn are
    trained for 500 steps first; their state is then fixed, and given it they must be unbiased.

    An event rarer than about 1 in `num_samples` is not seen, and to miss it looks like a bias.
    Where the arguments move an outcome whose probability is exactly zero, only Pathwise has a
    derivative: unless `exact` is given, those entries of the gradient are named and not checked.

    Args:
        key: of the estimates; the answer is the same for the same key.
        exact: the right (value, gradient), the latter of the structure of `value_and_grad`'s.
        argnums: which arguments to differentiate.
        num_samples: how many estimates, rounded up to a multiple of 32.

    Returns:
        z-scores and the smallest bias that would have been seen, printed as a table.

    Raises:
        EstimandError: the estimates disagree with the answer. It names the sites at fault: those
            that disagree when all the others have the reference. Or no site has a reference,
            or the estimates are not finite.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def heads(p):
        ...     return em.draw(dist.Bernoulli(p), via=em.Score()).astype(float) * p
        >>> check = em.check_unbiased(heads, 0.25, key=jax.random.key(0))
        >>> [leaf.name for leaf in check.leaves], check.agrees
        (['value', 'gradient'], True)
        >>> bool(check.leaves[1].smallest_bias < 0.2)
        True
    """
    check_call("check_unbiased", objective, args)
    positive_count(num_samples)
    estimator, key = Estimator(objective, args, argnums), as_key(key)
    chosen = reference(estimator)
    if exact is None and not chosen and places(estimator):
        raise _nothing_to_compare(objective)
    compare = Comparison(estimator, chosen, key, exact)
    found = compare(estimator, num_samples)
    if not found.agrees and found.is_finite:
        found = compare(estimator, AGAIN * num_samples, again=True)
    if not found.is_finite:
        raise _not_finite(objective, found)
    if not found.agrees:
        raise _biased(compare, found)
    return found


def reference(estimator: Estimator) -> dict[str, Strategy]:
    """A strategy for every label, by which another one of its sites can be judged."""
    return next(c for c in _references(estimator) if mistake(estimator.using(c)) is None)


def _references(estimator: Estimator) -> Iterator[dict[str, Strategy]]:
    """In order: all enumerated; the first that each site can have, with and without enumeration;
    the same of fewer and fewer sites.
    """
    sites = places(estimator)
    yield {place.label: REFERENCES[0] for place in sites}
    for options in (REFERENCES, REFERENCES[1:]):
        chosen: dict[str, Strategy] = {}
        for place in sites:
            own = [strategy for _, strategy in place.sites]
            fits = [s for s in options if not all(_same(s, other) for other in own)]
            fits.sort(key=lambda s: any(_same(s, other) for other in own))  # last, if of some
            able = (s for s in fits if mistake(estimator.using({place.label: s})) is None)
            chosen.update((place.label, s) for s in itertools.islice(able, 1))
        yield chosen
    while chosen:
        chosen.popitem()
        yield chosen


def _same(a: Strategy, b: Strategy) -> bool:
    return a == b or (type(a) is type(b) is Enumerate)


@dataclass(frozen=True)
class Comparison:
    """Estimates of one objective against the right answer."""

    base: Estimator
    reference: Mapping[str, Strategy]
    key: Any
    exact: Any = None

    def __call__(
        self, estimator: Estimator, num_samples: int, again: bool = False, given: bool = True
    ) -> BiasCheck:
        """`given`: the user's exact answer is used, if there is one."""
        training, key = jax.random.split(jax.random.fold_in(self.key, int(again)))
        exact, right = self.exact if given else None, self.base.using(self.reference)
        truths = _truths(self.base.staged[1][0], exact, self.base.objective.where)
        states = [x.trained(training) for x in (estimator, right)]

        def sample(states: Any, key: Any) -> Any:
            got = estimator.sample((self.base.inputs, states[0]), key)
            if exact is not None:
                return got, got
            expected = right.sample((self.base.inputs, states[1]), key)
            return got, jax.tree.map(lambda a, b: a - b, got, expected)

        got, difference = moments(sample, states, key, num_samples)
        lost = self.lost if exact is None else {}
        named = jax.tree_util.tree_leaves_with_path(got)
        masks = [np.any(x, axis=0) for x in zip(*lost.values(), strict=True)]
        masks = [False, *(masks or [False] * (len(named) - 1))]
        rows = zip(named, jax.tree.leaves(difference), truths, masks, strict=True)
        leaves = tuple(leaf_of(path, a, b, truth, mask) for (path, a), b, truth, mask in rows)
        name, number = self.base.objective.name, jax.tree.leaves(got)[0].num_samples
        return BiasCheck(name, leaves, self.against(given), number, self._unchecked(), tuple(lost))

    @cached_property
    def lost(self) -> dict[str, list[np.ndarray]]:
        """What the reference has no derivative of."""
        right, (first, rest) = self.base.using(self.reference), jax.random.split(self.key)
        return lost_derivatives(right, right.init(first, right.inputs), rest)

    def against(self, given: bool = True) -> str:
        if given and self.exact is not None:
            return "the exact answer that was given"
        if self._enumerated:
            return "exact enumeration"
        names = [f"{label}: {written(s)}" for label, s in self.reference.items()]
        return f"other strategies ({', '.join(names)})" if names else "itself"

    @property
    def _enumerated(self) -> bool:
        found = [self.reference.get(place.label) for place in places(self.base)]
        return all(isinstance(s, Enumerate) for s in found)

    def _judged(self, place: Place) -> list[tuple[str, Strategy]]:
        """The sites of a label that have another strategy than the reference."""
        other = self.reference.get(place.label)
        if other is None:
            return []
        return [site for site in place.sites if self._enumerated or not _same(site[1], other)]

    def _unchecked(self) -> tuple[str, ...]:
        if self.exact is not None:
            return ()
        sites = [(site, self._judged(p)) for p in places(self.base) for site in p.sites]
        return tuple(site[0] for site, judged in sites if site not in judged)

    def culprits(self, num_samples: int) -> list[tuple[Place, BiasCheck]]:
        """The sites that disagree with the reference when all others have it."""
        found = []
        for place in places(self.base):
            judged = self._judged(place)
            others = {k: s for k, s in self.reference.items() if k != place.label}
            alone = self.base.using({**others, **overrides({place.label: place.own})})
            if not judged or mistake(alone) is not None or place not in places(alone):
                continue
            check = self(alone, num_samples, again=True, given=False)
            if check.is_finite and not check.agrees:
                found.append((Place(place.label, tuple(judged)), check))
        return found


def _truths(estimates: Any, exact: Any, where: str) -> list[Any]:
    """The exact leaves beside those of the estimates; None for each where none was given."""
    leaves, treedef = jax.tree.flatten(estimates)
    if exact is None:
        return [None] * len(leaves)
    truths, structure = jax.tree.flatten(exact)
    shapes = [x.shape for x in leaves]
    if repr(structure) != repr(treedef) or [np.shape(x) for x in truths] != shapes:
        raise error(
            where,
            "the exact answer has another form than the estimates",
            expected=f"exact=(value, gradient), {treedef} of shapes {shapes}",
            got=f"{structure} of shapes {[np.shape(x) for x in truths]}",
            remedy="give the gradient the structure that value_and_grad returns for these argnums",
        )
    return [np.asarray(x) for x in truths]


def _biased(compare: Comparison, found: BiasCheck) -> EstimandError:
    culprits = compare.culprits(found.num_samples)
    name, against = compare.base.objective.where, found.against
    problems = [f"the estimates are biased: {_off(found)}; no site alone is at fault"]
    remedy = (
        "compare the answer that was given with objective.using({...}) of other strategies"
        if compare.exact is not None
        else "give sites other strategies with objective.using({...}), two or more at a time"
    )
    if culprits:
        found, against = culprits[0][1], f"{culprits[0][1].against}"
        name = "; ".join(place.where for place, _ in culprits)
        problems = [f"{written(place.own)} is biased: {_off(c)}" for place, c in culprits]
        labels = {place.label: "em.Score()" for place, _ in culprits}
        remedy = f"correct the strategy, or give the site another one, as with using({labels})"
    elif compare.lost:
        remedy += (
            f"; no strategy but Pathwise has a derivative where {', '.join(compare.lost)} has "
        )
        remedy += "outcomes of probability 0"
    leaf, at = found.worst, found.worst.at
    return error(
        name,
        "; ".join(problems),
        expected=f"{leaf.expected[at]:.6g} ({against})",
        got=f"{leaf.got[at]:.6g}, the mean of {found.num_samples} estimates",
        remedy=remedy.replace("'em.Score()'", "em.Score()"),
    )


def _not_finite(objective: Expectation, found: BiasCheck) -> EstimandError:
    leaf = found.worst
    own = not np.all(np.isfinite(leaf.got))
    whose = "its estimates" if own else f"estimates by {found.against}"
    got = np.asarray(leaf.got if own else leaf.expected).flat
    bad = next((x for x in got if not np.isfinite(x)), "a spread that is not")
    return error(
        objective.where,
        f"{whose} are not finite, and so there is nothing to compare",
        expected="a finite mean and variance of the value and of every entry of the gradient",
        got=f"{bad} in the {leaf.name} of {found.num_samples} estimates",
        remedy="print(objective.find_nonfinite(key, *args)) says where the first one comes from"
        + ("" if own else ", of objective.using({...}) with these strategies"),
    )


def _nothing_to_compare(objective: Expectation) -> EstimandError:
    return error(
        objective.where,
        "there is nothing to compare its estimates with",
        expected="another strategy that one of its sites can have, or exact=",
        got="sites that can have no other than theirs",
        remedy="pass exact=(value, gradient), or take a site out of its loop or branch",
    )


def _off(found: BiasCheck) -> str:
    leaf = found.worst
    entry = f"{leaf.name} at {list(leaf.at)}" if leaf.z.ndim else leaf.name
    return f"{entry} is off by {abs(leaf.worst):.1f} standard errors"
