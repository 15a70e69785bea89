"""A plan in words: one line a site, and one for each log density that is an estimate."""

from collections.abc import Iterator
from typing import Any

from estimand.transforms.jaxprs import Jaxpr, close, subjaxprs
from estimand.transforms.plan import Plan
from estimand.transforms.primitives import Mark, mark_p


def explain(plan: Plan, name: str) -> str:
    """Strategy, reason, cost and reach of every site, in the order of the program."""
    estimates = list(dict.fromkeys(map(_estimate, _marks(plan.jaxpr))))
    if not plan.sites:
        return "\n  ".join([f"{name}: no random values", *estimates])
    rows = [_row(plan, path) for path in sorted(plan.sites, key=lambda p: plan.sites[p].order)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, [*widths, 0], strict=True)) for row in rows
    ]
    return "\n".join([name, *("  " + line.rstrip() for line in [*lines, *estimates])])


MEANING = {
    "assessed": "E[Z] = p, so E[log Z] <= log p: adding it keeps a lower bound one; needs a method "
    "that can propose whatever the program can draw",
    "simulated": "E[1/Z] = 1/p given the draw, so E[log Z] >= log p: subtracting it keeps a lower "
    "bound one; needs a method that can propose what the program can draw, and no more",
}


def _marks(jaxpr: Jaxpr) -> Iterator[Mark]:
    """Of the log densities that are estimates."""
    for eqn in close(jaxpr).jaxpr.eqns:
        if eqn.primitive is mark_p and eqn.params["mark"].kind == "estimate":
            yield eqn.params["mark"]
        for body in subjaxprs(eqn):
            yield from _marks(body)


def _estimate(mark: Mark) -> str:
    assert isinstance(mark.info, tuple)
    kind, method = mark.info
    return f"log density of {mark.name}, {kind}: log Z by {method}; {MEANING[kind]}"


def _row(plan: Plan, path: Any) -> tuple[str, str, str, str]:
    info, chosen = plan.sites[path], plan.chosen[path]
    shape = f"{info.site.distribution}{list(info.shape) if info.shape else ''}"
    where = f"{info.label} ({info.site.source})"
    count, reached = plan.points.get(path, 1), [t for t in plan.terms if path in t.deps]
    remarks = [chosen.why]
    remarks.append("one evaluation" if count == 1 else f"{count} evaluations of what it reaches")
    if not chosen.strategy.pathwise:
        remarks += _lanes(plan, path)
        remarks.append(f"reaches {len(reached)} of {len(plan.terms)} terms")
    if chosen.strategy.caveat:
        remarks.append(chosen.strategy.caveat)
    return where, shape, repr(chosen.strategy), "; ".join(remarks)


def _lanes(plan: Plan, path: Any) -> list[str]:
    """How the lanes of a weighted site are credited."""
    places = [t.deps[path].places for t in plan.terms if path in t.deps]
    lanes = range(len(plan.sites[path].shape))
    together = [i for i in lanes if any(p[i] is None for p in places)]
    relations = [{p[1] for row in places if (p := row[i]) is not None} for i in lanes]
    running = [i for i in lanes if i not in together and relations[i] - {"="}]
    if plan.points[path] > 1:
        together, running = sorted({*together, *running}), []
    found = [f"axes {together} jointly"] if together else []
    return found + ([f"axes {running} by running sums"] if running else [])
