"""Where the lanes of sites are among the axes of a value, and how that moves.

The algebra under the dependence pass. Along one axis a value at position i may depend on
lane i alone ("="), on lanes up to i ("<") or on lanes from i on (">"); "=" followed by
either is that one, "<" followed by ">" is nothing, and nothing is always sound.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from estimand.transforms.alignment import AxisMap
from estimand.transforms.interpret import Path
from estimand.transforms.primitives import Site


@dataclass(frozen=True)
class Step:
    """The step of the scan at nesting depth `depth`, as an axis."""

    depth: int


Place = tuple[Any, str] | None  # (axis or Step, relation)


class Dep(NamedTuple):
    places: tuple[Place, ...]
    live: bool = True
    detached: bool = False


class State(NamedTuple):
    """Of one value: the sites that reach it, and whose own output it is, if any."""

    deps: dict[Path, Dep] = {}
    own: Path | None = None


NOTHING = State()


@dataclass(frozen=True)
class SiteInfo:
    """A site of the program: where it is and what lanes it has.

    `shape` are all lanes: steps of enclosing scans, then `vmap` lanes, then native batch
    axes. Axes in `mixed` are native ones that its density does not keep apart.
    """

    path: Path
    site: Site
    leaves: tuple[Any, ...]  # avals
    shape: tuple[int, ...]
    steps: int
    context: tuple[str, ...]  # enclosing "scan", "cond", "while", "checkpoint"
    mixed: frozenset[int]
    order: int  # its turn in the program

    @property
    def label(self) -> str:
        return self.site.label or self.site.name or f"draw {self.order}"

    @property
    def where(self) -> str:
        return f"site {self.label!r} ({self.site.source})"


def join(parts: Sequence[dict[Path, Dep]]) -> dict[Path, Dep]:
    """What reaches a value through any of several operands."""
    joined: dict[Path, Dep] = {}
    for part in parts:
        for path, dep in part.items():
            if path in joined:
                other = joined[path]
                places = tuple(_meet(a, b) for a, b in zip(other.places, dep.places, strict=True))
                dep = Dep(places, other.live or dep.live, other.detached or dep.detached)
            joined[path] = dep
    return joined


def _meet(a: Place, b: Place) -> Place:
    if a is None or b is None or a[0] != b[0]:
        return None
    return _through(a, b[1])


def _through(place: Place, relation: str) -> Place:
    """A place followed by one more relation along the same axis."""
    if place is None or relation == "=":
        return place
    return (place[0], relation) if place[1] in ("=", relation) else None


def carry_over(deps: dict[Path, Dep], axes: AxisMap) -> dict[Path, Dep]:
    """The deps of an operand as deps of a result, through its axis map. Steps stay."""

    def move(place: Place) -> Place:
        if place is None or isinstance(place[0], Step):
            return place
        if place[0] not in axes:
            return None
        axis, relation = axes[place[0]]
        return _through((axis, place[1]), relation)

    return {p: d._replace(places=tuple(map(move, d.places))) for p, d in deps.items()}


def relabel(deps: dict[Path, Dep], axis: Any, steps: dict[Step, int] | None = None) -> Any:
    def move(place: Place) -> Place:
        if place is None:
            return None
        if isinstance(place[0], Step):
            return ((steps or {}).get(place[0], place[0]), place[1])
        return (axis(place[0]), place[1])

    return {p: d._replace(places=tuple(map(move, d.places))) for p, d in deps.items()}


def age(deps: dict[Path, Dep], step: Step, later: str) -> dict[Path, Dep]:
    """What a carry brings to the next step."""

    def move(place: Place) -> Place:
        return _through(place, later) if place is not None and place[0] == step else place

    return {p: d._replace(places=tuple(map(move, d.places))) for p, d in deps.items()}


def forget(deps: dict[Path, Dep], step: Step) -> dict[Path, Dep]:
    """A final carry holds all steps."""

    def move(place: Place) -> Place:
        return None if place is not None and place[0] == step else place

    return {p: d._replace(places=tuple(map(move, d.places))) for p, d in deps.items()}


def detached(state: State) -> State:
    deps = {p: d._replace(live=False, detached=True) for p, d in state.deps.items()}
    return State(deps, state.own)
