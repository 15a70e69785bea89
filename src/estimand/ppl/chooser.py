"""Which strategy a site gets: the user's, or a default with its reason."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpyro.distributions as dists

from estimand.errors import EstimandError, error
from estimand.estimators.disarm import DisArm
from estimand.estimators.enumerate import Enumerate
from estimand.estimators.leave_one_out import LeaveOneOut
from estimand.estimators.measure_valued import MeasureValued
from estimand.estimators.pathwise import Pathwise
from estimand.estimators.rebar import Rebar
from estimand.estimators.score import Score
from estimand.estimators.stratified import Stratified
from estimand.estimators.without_replacement import WithoutReplacement
from estimand.transforms.jaxprs import Equation, close, subjaxprs
from estimand.transforms.places import SiteInfo
from estimand.transforms.plan import Chosen, static_distribution
from estimand.transforms.primitives import Site, sample_p
from estimand.transforms.strategy import Strategy
from estimand.transforms.supports import bounding_leaves

UNROLLED = 32  # the longest scan that is written out for the sake of a multi-point site
UNLIKE_DRAWS = (
    dists.MaskedDistribution,
    dists.LeftCensoredDistribution,
    dists.RightCensoredDistribution,
    dists.IntervalCensoredDistribution,
    dists.Unit,
)
WRAPPERS = (dists.ExpandedDistribution, dists.Independent)
OFFERED = (
    Pathwise(),
    Stratified(),
    Enumerate(),
    MeasureValued(),
    DisArm(),
    Rebar(),
    WithoutReplacement(),
    LeaveOneOut(),
    Score(),
)


class Chooser:
    """Choices per site, with `using` overriding `via` overriding the default."""

    def __init__(self, overrides: dict[str, Strategy]):
        self.overrides = overrides

    def explicit(self, site: Site, label: str) -> tuple[Strategy | None, str]:
        for name, strategy in reversed(self.overrides.items()):  # the last word counts
            if matches(label, name):
                return strategy, "chosen by using()"
        return site.via, "chosen by via="

    def choose(self, info: SiteInfo) -> Chosen:
        strategy, why = self.explicit(info.site, info.label)
        dist = static_distribution(info)
        if strategy is None:
            return self._default(info, dist)
        if not isinstance(strategy, Strategy):
            raise _not_a_strategy(info.where, strategy)
        reason = refusal(strategy, dist, info)
        if reason:
            able = [repr(s) for s in OFFERED if not refusal(s, dist, info)]
            raise error(
                info.where,
                f"{strategy!r} cannot be used here: {reason}",
                expected=f"one of {', '.join(able)}" if able else "another distribution",
                got=f"{strategy!r} for {info.site.distribution}",
                remedy="pass one of those as via=, or leave the choice to the default"
                if able
                else "draw from a distribution with the same values and a density of its own, and "
                "score with this one",
            )
        return Chosen(strategy, why)

    def check_overrides(self, labels: Sequence[str], where: str) -> None:
        """Every name in `using` must be a suffix of the label of one site."""
        known = sorted(set(labels))
        for name in self.overrides:
            found = [label for label in known if matches(label, name)]
            if len(found) != 1:
                raise error(
                    where,
                    f"using({{{name!r}: ...}}) names " + ("several sites" if found else "no site"),
                    expected="a suffix of the label of one site",
                    got=f"{name!r}, which fits {', '.join(found) or 'none'}",
                    remedy=f"use one of: {', '.join(known) or 'this objective has no sites'}",
                )

    def _default(self, info: SiteInfo, dist: Any) -> Chosen:
        if dist.has_rsample:
            return Chosen(Pathwise(), "default: the distribution is reparameterised", True)
        for strategy in (Enumerate(), Score()):
            reason = refusal(strategy, dist, info)
            if reason is None:
                break
        else:
            raise _no_strategy(info, reason)
        if isinstance(strategy, Enumerate):
            return Chosen(strategy, "default: the support is finite", True)
        inside = f"inside a {info.context[-1]}" if info.context else None
        return self.fallback(f"not reparameterised; {inside or refusal(Enumerate(), dist, info)}")

    def fallback(self, why: str) -> Chosen:
        return Chosen(Score(), f"default: {why}", False)

    def unroll(self, eqn: Equation) -> bool:
        """Whether a checkpoint, or a short scan, holds a site that was given several points."""
        short = eqn.params.get("length", 1) <= UNROLLED
        return short and any(map(self._many, subjaxprs(eqn)))

    def relaxes(self, site: Site, leaves: Any, turn: int) -> bool:
        """Whether a site was given a strategy that looks between its values, and can have it."""
        strategy, _ = self.explicit(site, site.label or site.name or f"draw {turn}")
        if not isinstance(strategy, Strategy) or not strategy.relaxed:
            return False
        return strategy.refuses(site.structure.placeholder(site.bare(leaves))) is None

    def _many(self, jaxpr: Any) -> bool:
        for eqn in close(jaxpr).jaxpr.eqns:
            if eqn.primitive is sample_p:
                site: Site = eqn.params["site"]
                strategy, _ = self.explicit(site, site.label or site.name or "")
                dist = site.structure.placeholder(site.bare([v.aval for v in eqn.invars]))
                if isinstance(strategy, Strategy) and not strategy.refuses(dist):
                    if _many(strategy, dist):
                        return True
            if any(map(self._many, subjaxprs(eqn))):
                return True
        return False


def as_mapping(strategies: Any, where: str) -> Mapping[str, Strategy]:
    if isinstance(strategies, Mapping) and all(isinstance(name, str) for name in strategies):
        return strategies
    raise error(
        where,
        "using() says which site gets which strategy",
        expected="a dictionary from labels, which are strings, to strategies",
        got=repr(strategies),
        remedy="write using({'z': em.Score()}); a site without a name has its number for a label, "
        "as in 'draw 0', and explain() lists them all",
    )


def matches(label: str, name: str) -> bool:
    return label == name or label.endswith("/" + name)


def unfit(strategy: Strategy, dist: Any, info: SiteInfo) -> str | None:
    """Why a strategy cannot be used for a site's distribution, wherever it is; or None."""
    reason = strategy.refuses(dist)
    if reason and "to_event" not in reason and not _refused_alone(strategy, dist):
        reason += "; leave out expand() and to_event(), and give its parameters the full shape"
    bounds = bounding_leaves(info.site.structure, info.site.bare(info.leaves))
    if reason is None and strategy.fixed_points and bounds:
        return "its support depends on a parameter that is no concrete integer"
    if reason is None and not strategy.pathwise and _masked(info.site.structure):
        return "its density is not that of its draws (it is masked, censored or a factor)"
    return reason


def refusal(strategy: Strategy, dist: Any, info: SiteInfo) -> str | None:
    """Why a strategy cannot be used for a site, or None."""
    reason = unfit(strategy, dist, info)
    if reason is None and info.context and _many(strategy, dist):
        what = "looks between the values" if strategy.relaxed else "has several points"
        kind = info.context[-1]
        if kind == "scan":
            return f"it {what}, and the scan is longer than {UNROLLED} steps"
        return f"it {what}, and the site is inside a {kind}"
    if reason is None and strategy.optimizer is not None and "while" in info.context:
        return "it has a state, and the number of steps of a while is not known"
    return reason


def _refused_alone(strategy: Strategy, dist: Any) -> bool:
    """Whether it would be refused also without `expand` and `to_event` around it."""
    while isinstance(dist, WRAPPERS):
        dist = dist.base_dist
    return strategy.refuses(dist) is not None


def _many(strategy: Strategy, dist: Any) -> bool:
    """Whether a strategy needs the program at more than a draw, which no compiled loop gives."""
    return strategy.relaxed or strategy.meets or strategy.count(dist, 1) > 1


def _masked(structure: Any) -> bool:
    inner = [s for _, _, slots in structure.fields for s in slots if hasattr(s, "cls")]
    return structure.cls in UNLIKE_DRAWS or any(map(_masked, inner))


def _not_a_strategy(where: str, got: Any) -> EstimandError:
    return error(
        where,
        "via= takes a strategy",
        expected="an instance of a strategy, such as em.Score()",
        got=repr(got),
        remedy="write em.Score() with its parentheses, or leave via= out",
    )


def _no_strategy(info: SiteInfo, reason: str | None) -> EstimandError:
    return error(
        info.where,
        f"no strategy can estimate an expectation over {info.site.distribution}",
        expected="a distribution with a reparameterised sampler or a density of its own draws",
        got=str(reason),
        remedy="sample from the distribution without the mask, and mask its log density",
    )
