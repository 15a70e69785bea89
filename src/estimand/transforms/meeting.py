"""Which lanes of sites are brought together by a log weight, or by the law of another site."""

from collections.abc import Iterator, Mapping
from typing import Any

from estimand.transforms.dependence import Analysis
from estimand.transforms.interpret import Path
from estimand.transforms.jaxprs import Literal, Var, close
from estimand.transforms.places import SiteInfo
from estimand.transforms.primitives import sample_p


def joint_lanes(analysis: Analysis, sites: Mapping[int, SiteInfo]) -> dict[int, frozenset[int]]:
    """For each site, by its turn, the lanes that meet; the program's outputs are the weights.

    The steps of enclosing scans are not counted among the lanes.
    """
    joint = {s: {i - x.steps for i in x.mixed} for s, x in sites.items()}
    by_path = {info.path: s for s, info in sites.items()}
    outputs = {v for v in close(analysis.jaxpr).jaxpr.outvars if not isinstance(v, Literal)}
    rows = list(_rows(analysis, (), outputs, by_path))
    while True:
        before = {s: set(lanes) for s, lanes in joint.items()}
        for child, deps in rows:
            for path, dep in deps.items():
                site = by_path[path]
                for i, place in enumerate(dep.places[sites[site].steps :]):
                    met = place is None or place[1] != "="
                    if met or (child is not None and place[0] in joint[child]):
                        joint[site].add(i)
        if before == joint:
            return {s: frozenset(lanes) for s, lanes in joint.items()}


def _rows(
    analysis: Analysis, path: Path, weights: set[Var], by_path: Mapping[Path, int]
) -> Iterator[tuple[int | None, Any]]:
    """What reaches each weight (None) and each site's law, in all bodies."""
    for v in weights:
        yield None, analysis.state(v).deps
    for i, eqn in enumerate(close(analysis.jaxpr).jaxpr.eqns):
        here = (*path, i)
        if eqn.primitive is sample_p:
            yield by_path[here], analysis.state(eqn.outvars[0]).deps
        elif eqn.primitive.name == "scan" and here in analysis.bodies:
            body = analysis.bodies[here]
            outs = close(body.jaxpr).jaxpr.outvars
            found = {outs[k] for k, v in enumerate(eqn.outvars) if v in weights}
            inside = {v for v in found if not isinstance(v, Literal)}
            yield from _rows(body, here, inside, by_path)
