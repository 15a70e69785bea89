"""The strategies that tools try at every site, and which of them a site can have."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

import optax

from estimand.errors import EstimandError
from estimand.estimators.learned_baseline import LearnedBaseline
from estimand.estimators.leave_one_out import LeaveOneOut
from estimand.estimators.moving_average import MovingAverage
from estimand.estimators.rebar import Rebar
from estimand.estimators.relax import Relax
from estimand.estimators.score import Score
from estimand.estimators.vimco import Vimco
from estimand.ppl.chooser import OFFERED
from estimand.ppl.measure import Estimator
from estimand.transforms.strategy import Strategy

CANDIDATES: tuple[Strategy, ...] = (  # a new strategy is entered here
    *OFFERED,
    LeaveOneOut(4),
    Vimco(),
    Score(MovingAverage()),
    Score(LearnedBaseline()),
    Rebar(optimizer=optax.adam(1e-2)),
    Relax(),
)


Option = Strategy | tuple[Strategy, ...]  # or, for several sites of a label, what each has


@dataclass(frozen=True)
class Place:
    """What a user names by a label: a site, or several, as those in exclusive branches.

    Attributes:
        sites: where each is, and the strategy it has.
    """

    label: str
    sites: tuple[tuple[str, Strategy], ...]

    @property
    def where(self) -> str:
        return "; ".join(dict.fromkeys(where for where, _ in self.sites))

    @property
    def own(self) -> Option:
        """The strategy that it has; where its sites have several, these, in their order."""
        found = tuple(strategy for _, strategy in self.sites)
        return found[0] if len(set(found)) == 1 else found


def places(estimator: Estimator) -> list[Place]:
    """The labels of a program, in the order of its sites."""
    plan, found = estimator.plan, dict[str, list[tuple[str, Strategy]]]()
    for path, info in sorted(plan.sites.items(), key=lambda item: item[1].order):
        found.setdefault(info.label, []).append((info.where, plan.chosen[path].strategy))
    return [Place(label, tuple(sites)) for label, sites in found.items()]


def overrides(options: Mapping[str, Option]) -> dict[str, Strategy]:
    """What `using` takes: labels whose sites keep what each of them has are left out."""
    return {label: s for label, s in options.items() if isinstance(s, Strategy)}


def is_biased(option: Option) -> bool:
    kept = option if isinstance(option, tuple) else (option,)
    return any(bool(getattr(strategy, "biased", False)) for strategy in kept)


def refusals(
    estimator: Estimator, place: Place, candidates: Sequence[Option]
) -> dict[Option, str | None]:
    """For each candidate why the place cannot have it, or None."""
    found: dict[Option, str | None] = {}
    for option in candidates:
        if is_biased(option):
            found[option] = "it is biased"
            continue
        reason = mistake(estimator.using(overrides({place.label: option})))
        for where, _ in place.sites if reason else ():
            opening = f"{where}: {option!r} cannot be used here: "
            reason = reason.removeprefix(opening).removeprefix(f"{where}: ")  # type: ignore
        found[option] = reason
    return found


def mistake(estimator: Estimator) -> str | None:
    """The first line of what is wrong with an estimator, found without running it."""
    try:
        _ = estimator.staged
    except EstimandError as problem:
        return str(problem).splitlines()[0]
    return None


def everywhere(estimator: Estimator, strategy: Strategy) -> Mapping[str, Strategy]:
    """`strategy` for all sites that can have it."""
    return {
        place.label: strategy
        for place in places(estimator)
        if mistake(estimator.using({place.label: strategy})) is None
    }


def written(x: Any) -> str:
    """A strategy as one writes it, without the fields that are at their defaults.

    What a field holds that it does not print, such as an optimizer, is three dots.
    """
    if isinstance(x, tuple):
        return " / ".join(map(written, x))
    if not is_dataclass(x) or isinstance(x, type):
        return getattr(x, "__name__", repr(x))
    shown = []
    for i, field in enumerate(fields(x)):
        made = field.default_factory() if field.default_factory is not MISSING else field.default
        value = getattr(x, field.name)
        if value != made:
            text = written(value) if field.repr else "..."
            shown.append(text if i == 0 and field.repr else f"{field.name}={text}")
    return f"{type(x).__name__}({', '.join(shown)})"
