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


@dataclass(frozen=True)
class Place:
    """A site as a user names it: its label, where it is and the strategy it has.

    Sites of one label, as in exclusive branches, are one place.
    """

    label: str
    where: str
    strategy: Strategy


def places(estimator: Estimator) -> list[Place]:
    """The sites of a program, in its order."""
    plan, found = estimator.plan, dict[str, Place]()
    for path, info in sorted(plan.sites.items(), key=lambda item: item[1].order):
        place = Place(info.label, info.where, plan.chosen[path].strategy)
        found.setdefault(info.label, place)
    return list(found.values())


def is_biased(strategy: Strategy) -> bool:
    return bool(getattr(strategy, "biased", False))


def refusals(
    estimator: Estimator, place: Place, candidates: Sequence[Strategy]
) -> dict[Strategy, str | None]:
    """For each candidate why the site cannot have it, or None."""
    found: dict[Strategy, str | None] = {}
    for strategy in candidates:
        if is_biased(strategy):
            found[strategy] = "it is biased"
        else:
            reason = mistake(estimator.using({place.label: strategy}))
            opening = f"{place.where}: {strategy!r} cannot be used here: "
            reason = reason and reason.removeprefix(opening)
            found[strategy] = reason and reason.removeprefix(f"{place.where}: ")
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
    """A strategy as one writes it, without the fields that are at their defaults."""
    if not is_dataclass(x) or isinstance(x, type):
        return getattr(x, "__name__", repr(x))
    shown, all_fields = [], [f for f in fields(x) if f.repr]
    for i, field in enumerate(all_fields):
        made = field.default_factory() if field.default_factory is not MISSING else field.default
        value = getattr(x, field.name)
        if value != made:
            shown.append(written(value) if i == 0 else f"{field.name}={written(value)}")
    return f"{type(x).__name__}({', '.join(shown)})"
