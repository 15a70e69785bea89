"""Choosing the strategies of all sites together, by what they cost and how much they vary.

With work W there is room for W / cost samples, whose mean has the variance

    tr Cov g / (W / cost) = variance x cost / W,

so the best choice is the one with the least variance x cost. The variance of one site's strategy
depends on those of the others, and so does the cost where sites meet: combinations are measured,
all of them where they are few; otherwise one site is changed at a time, from the default on,
until no change is better.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
from jaxtyping import Array, Key

from estimand.errors import EstimandError, error, is_count, source_line
from estimand.ppl.arguments import positive_count
from estimand.ppl.candidates import (
    CANDIDATES,
    Option,
    Place,
    mistake,
    overrides,
    places,
    refusals,
    written,
)
from estimand.ppl.choice import Choice, Measured
from estimand.ppl.diagnosis import digits
from estimand.ppl.expectation import Expectation
from estimand.ppl.measure import Estimator, check_call, moments, seconds, together
from estimand.transforms.seed import as_key
from estimand.transforms.strategy import Strategy

Combination = tuple[Option, ...]  # one for each label, in the order of the program


def choose(
    objective: Expectation,
    *args: Any,
    key: Key[Array, ""],
    budget: int = 64,
    argnums: int | Sequence[int] = 0,
    cost: Literal["flops", "time"] = "flops",
    candidates: Sequence[Strategy] = CANDIDATES,
    num_samples: int = 2048,
) -> Choice:
    """The strategies with the least variance x cost of the gradient, at these arguments.

    Every site is given each of the candidates that it can have, and the strategy that it has. Sites
    of one label, as in exclusive branches, are given the same one, or keep what each of them has.
    Biased ones are left out, and so are combinations that the program cannot have, because too
    many points meet. If the combinations are more than `budget`, one site is changed at a time,
    from the default on, until no change is better or the budget is spent. Variance is the trace of
    the covariance over all differentiated leaves, of one sample; strategies that learn are trained
    for 500 steps at these arguments first. What is best elsewhere, later in training say, may be
    another choice, and derivatives of a higher order are not considered.

    Args:
        key: of the samples, the same for all combinations.
        budget: how many combinations may be measured, the default included unless it is biased:
            that is measured besides, for comparison.
        argnums: which arguments to differentiate.
        cost: "flops" of a step of training, as XLA counts them (time, where it does not); or
            its "time", which is not the same again in the next run.
        candidates: the strategies to try.
        num_samples: gradients per combination, rounded up to a multiple of 32.

    Returns:
        A `Choice`, whose `objective` has the strategies; `print` gives the reasons.

    Raises:
        EstimandError: a site has a biased strategy, and there is no other for it; or no
            combination has a finite gradient.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def heads(logits):
        ...     return em.draw(dist.Bernoulli(logits=logits), via=em.Score()).astype(float)
        >>> found = em.choose(
        ...     heads, 0.3, key=jax.random.key(0), candidates=[em.Enumerate(), em.MeasureValued()])
        >>> found.strategies
        {'draw 0': Enumerate(cap=1024)}
    """
    check_call("choose", objective, args)
    if cost not in ("flops", "time"):
        raise _wrong("cost", cost, '"flops" or "time"', "leave it out for FLOPs")
    if not is_count(budget) or budget < 1:
        raise _wrong("budget", budget, "a positive integer", "leave it out for 64 combinations")
    estimator = Estimator(objective, args, argnums)
    sites = places(estimator)
    refused = [refusals(estimator, p, _with(p.own, candidates)) for p in sites]
    options = [[s for s, reason in found.items() if reason is None] for found in refused]
    for place, found in zip(sites, options, strict=True):
        if not found:
            raise _no_sound_strategy(place, candidates)
    search = Search(estimator, sites, options, as_key(key), positive_count(num_samples), cost)
    best = search.best(budget)
    if not math.isfinite(search.measure(best).product):
        raise _not_finite(objective)
    strategies = search.overrides(best)
    return Choice(
        objective.using(strategies),
        strategies,
        search.measure(search.default),
        search.measure(best),
        search.spent - search.besides,
        search.total <= budget,
        "FLOPs" if search.cost == "flops" else "seconds",
        {p.where: search.reasons(i, best, refused[i]) for i, p in enumerate(sites)},
    )


def _with(own: Option, candidates: Sequence[Strategy]) -> list[Option]:
    return list(dict.fromkeys([own, *candidates]))


@dataclass
class Search:
    """Measurements of combinations, each made once."""

    estimator: Estimator
    sites: list[Place]
    options: list[list[Option]]
    key: Any
    num_samples: int
    cost: str
    found: dict[Combination, Measured] = field(default_factory=dict)

    @property
    def default(self) -> Combination:
        """The program as it is."""
        return tuple(place.own for place in self.sites)

    def overrides(self, combination: Combination) -> dict[str, Strategy]:
        labels = [place.label for place in self.sites]
        return overrides(dict(zip(labels, combination, strict=True)))

    @property
    def total(self) -> int:
        return math.prod(map(len, self.options))

    @property
    def spent(self) -> int:
        return sum(math.isfinite(m.cost) for m in self.found.values())

    @property
    def besides(self) -> int:
        """One if the default is not to be chosen, and so does not count."""
        pairs = zip(self.default, self.options, strict=True)
        return int(any(own not in options for own, options in pairs))

    def best(self, budget: int) -> Combination:
        self.measure(self.default)
        if self.total <= budget:
            every = itertools.product(*self.options)
            return min(every, key=lambda combination: self.measure(combination).rank)
        return self._descend(budget)

    def _descend(self, budget: int) -> Combination:
        """One site at a time, until a whole round has changed nothing."""
        pairs = zip(self.default, self.options, strict=True)
        best = tuple(own if own in options else options[0] for own, options in pairs)
        unchanged = 0
        for i in itertools.cycle(range(len(best))):
            before = best
            for strategy in self.options[i]:
                other = (*best[:i], strategy, *best[i + 1 :])
                if other not in self.found and self.spent - self.besides >= budget:
                    return best
                if self.measure(other).rank < self.measure(best).rank:
                    best = other
            unchanged = unchanged + 1 if best == before else 1
            if unchanged >= len(best):
                break
        return best

    def measure(self, combination: Combination) -> Measured:
        """Infinite cost for a combination that the program cannot have."""
        if combination not in self.found:
            estimator = self.estimator.using(self.overrides(combination))
            impossible = mistake(estimator) is not None
            nothing = Measured(math.inf, math.inf)
            self.found[combination] = nothing if impossible else self._measure(estimator)
        return self.found[combination]

    def _measure(self, estimator: Estimator) -> Measured:
        training, key = jax.random.split(self.key)
        state = estimator.trained(training)

        def sample(given: Any, key: Any) -> Any:
            return jax.tree.leaves(estimator.sample(given, key)[1])

        given = (estimator.inputs, state)
        variance = together(moments(sample, given, key, self.num_samples)).trace
        if self.cost == "flops":
            work = estimator.flops()
            if work is not None:
                return Measured(variance, max(work, 1.0))
            self.cost = "time"  # from the first on: XLA counts for no program, or for all
        step = partial(jax.jit(estimator.step), estimator.inputs, key, state)
        return Measured(variance, seconds([step])[0])

    def reasons(
        self, i: int, best: Combination, refused: Mapping[Option, str | None]
    ) -> list[tuple[str, ...]]:
        """What the site would have cost with each strategy, the others being as chosen."""
        lines: list[tuple[str, ...]] = []
        for strategy, reason in refused.items():
            other = (*best[:i], strategy, *best[i + 1 :])
            m, numbers, remarks = self.found.get(other), ("", "", ""), list[str]()
            if strategy == best[i]:
                remarks.append("chosen")
            if strategy == self.sites[i].own:
                remarks.append("default")
            if reason is not None:
                remarks.append(f"refused: {reason}")
            elif m is None:
                remarks.append("not measured")
            elif math.isfinite(m.cost):
                ratio = m.over(self.found[best])
                numbers = digits(m.variance), digits(m.cost), digits(ratio)
            else:
                remarks.append("refused: not together with the others")
            lines.append((written(strategy), *numbers, ", ".join(remarks)))
        return lines


def _wrong(name: str, got: Any, expected: str, remedy: str) -> EstimandError:
    return error(
        f"em.choose ({source_line()})",
        f"{name} is something else",
        expected=expected,
        got=repr(got),
        remedy=remedy,
    )


def _not_finite(objective: Expectation) -> EstimandError:
    return error(
        objective.where,
        "no strategies make its gradient finite at these arguments",
        expected="a finite variance for at least one combination",
        got="NaN or infinity for all that were measured",
        remedy="print(objective.find_nonfinite(key, *args)) says where the first one comes from",
    )


def _no_sound_strategy(place: Place, candidates: Sequence[Strategy]) -> EstimandError:
    return error(
        place.where,
        "no unbiased strategy was found for it",
        expected=f"one of {', '.join(map(written, candidates))}",
        got=f"{written(place.own)}, which is biased, and none of the others can be used",
        remedy="pass candidates=[...] with one that it can have",
    )
