"""A plan in words: one line a site."""

from typing import Any

from estimand.transforms.plan import Plan


def explain(plan: Plan, name: str) -> str:
    """Strategy, reason, cost and reach of every site, in the order of the program."""
    if not plan.sites:
        return f"{name}: no random values"
    rows = [_row(plan, path) for path in sorted(plan.sites, key=lambda p: plan.sites[p].order)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, [*widths, 0], strict=True)) for row in rows
    ]
    return "\n".join([name, *("  " + line.rstrip() for line in lines)])


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
