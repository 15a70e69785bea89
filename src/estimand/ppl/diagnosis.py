"""What `diagnose` measured, as a table, a figure and plain numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from estimand.errors import EstimandError, error, source_line
from estimand.ppl.measure import Moments, aligned, together


class Row(NamedTuple):
    """One choice of strategies.

    Attributes:
        strategies: of every site.
        leaves: of the gradient in the arguments.
        sites: of the gradient in the parameters of sites, by `label.parameter`.
        flops: of a step of training with one sample; None where XLA does not say.
        seconds: the median time of such a step.
    """

    name: str
    strategies: dict[str, str]
    leaves: dict[str, Moments]
    sites: dict[str, Moments]
    flops: float | None
    seconds: float

    @property
    def gradient(self) -> Moments:
        """All leaves in one row."""
        return together(list(self.leaves.values()))

    @property
    def cost(self) -> float:
        return self.seconds if self.flops is None else self.flops


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What `diagnose` measured: `print` it, `.plot()` it, or take the numbers with `.as_dict()`.

    The variance of a leaf is the sum of its entries'; SNR is |mean| / sqrt(variance), of one
    sample; the numbers after ± are standard errors.
    """

    name: str
    rows: tuple[Row, ...]
    left_out: Mapping[str, str]
    inside: tuple[str, ...] = ()  # sites in loops and branches, which have no rows

    @property
    def unit(self) -> str:
        return "seconds" if any(row.flops is None for row in self.rows) else "FLOPs"

    def products(self) -> list[tuple[float, float]]:
        """Variance x cost of every row, and its standard error."""
        costs = [row.flops if self.unit == "FLOPs" else row.seconds for row in self.rows]
        found = [row.gradient for row in self.rows]
        return [
            (m.trace * (cost or 0.0), m.trace_error * (cost or 0.0))
            for m, cost in zip(found, costs, strict=True)
        ]

    def __repr__(self) -> str:
        count = self.rows[0].gradient.num_samples if self.rows else 0
        lines = [f"{self.name}: {count} gradients of one sample for each choice", ""]
        lines += [*self._overview(), ""]
        lines += self._details("gradient in the arguments", "leaf", [r.leaves for r in self.rows])
        sites = [row.sites for row in self.rows]
        if any(sites):
            lines += ["", *self._details("gradient at the sites", "parameter", sites)]
        notes = [f"left out, {name}: {reason}" for name, reason in self.left_out.items()]
        if self.inside:
            notes.append(f"without rows, inside loops or branches: {', '.join(self.inside)}")
        return "\n".join(["  " + x if x and i else x for i, x in enumerate([*lines, *notes])])

    def _overview(self) -> list[str]:
        rows = [
            (
                "strategies",
                "variance",
                "SNR",
                "FLOPs",
                "time",
                f"variance x {self.unit}",
                "relative",
            )
        ]
        products = self.products()
        first = next((product for product, _ in products if product), 0.0)  # with a variance
        for row, (product, spread) in zip(self.rows, products, strict=True):
            m, work = row.gradient, "?" if row.flops is None else digits(row.flops)
            relative = digits(product / first) if first else "-"
            variance, work_to_do = plus_minus(m.trace, m.trace_error), plus_minus(product, spread)
            time = f"{digits(1e6 * row.seconds)} us"
            rows.append((row.name, variance, digits(m.snr), work, time, work_to_do, relative))
        return aligned(rows)

    def _details(self, title: str, of: str, parts: Sequence[Mapping[str, Moments]]) -> list[str]:
        """One line for each leaf and strategy, by leaf."""
        rows = [(of, "strategies", "|mean|", "variance", "SNR")]
        for name in dict.fromkeys(name for part in parts for name in part):
            for row, part in zip(self.rows, parts, strict=True):
                if name in part:
                    m = part[name]
                    mean = plus_minus(m.norm, (m.trace / m.num_samples) ** 0.5)
                    variance = plus_minus(m.trace, m.trace_error)
                    rows.append((name, row.name, mean, variance, digits(m.snr)))
        shown = [rows[0]]
        for before, line in zip(rows, rows[1:], strict=False):
            shown.append(("" if line[0] == before[0] else line[0], *line[1:]))
        return [title, *aligned(shown, left=2)]

    def as_dict(self) -> dict[str, Any]:
        """All numbers, as Python's own: it can be written as JSON."""
        found = {}
        for row, (product, spread) in zip(self.rows, self.products(), strict=True):
            found[row.name] = {
                "strategies": dict(row.strategies),
                **_variance(row.gradient),
                "seconds": row.seconds,
                "flops": row.flops,
                f"variance x {self.unit}": {"value": product, "standard error": spread},
                "leaves": {name: _numbers(m) for name, m in row.leaves.items()},
                "sites": {name: _numbers(m) for name, m in row.sites.items()},
            }
        return {
            "objective": self.name,
            "strategies": found,
            "left out": dict(self.left_out),
            "sites without rows": list(self.inside),
        }

    def plot(self, path: Any = None) -> Any:
        """A Matplotlib figure, saved to `path` if one is given.

        Left: variance x cost of the whole gradient, with standard errors. Right: the variance of
        each of its leaves. Both on logarithmic axes, on which no variance is at the left edge.
        """
        pyplot = _pyplot()
        size = (10.0, 1.5 + 0.35 * len(self.rows))
        figure, axes = pyplot.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
        products = self.products()
        _dots(axes[0], [[p] for p, _ in products], [[e] for _, e in products], [""])
        axes[0].set(xlabel=f"variance x {self.unit}", title="work for a given accuracy")
        leaves = [list(row.leaves.values()) for row in self.rows]
        names = list(self.rows[0].leaves) if self.rows else []
        _dots(
            axes[1],
            [[m.trace for m in row] for row in leaves],
            [[m.trace_error for m in row] for row in leaves],
            names,
        )
        axes[1].set(xlabel="variance", title="variance of each leaf")
        if len(names) > 1:
            figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right upper")
        axes[0].set_yticks(range(len(self.rows)), [row.name for row in self.rows])
        axes[0].invert_yaxis()
        figure.suptitle(self.name)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


def plus_minus(x: float, spread: float) -> str:
    return f"{digits(x)} ± {digits(spread, 1)}" if spread else digits(x)


def digits(x: float, count: int = 3) -> str:
    """x with so many significant digits, and no exponent up to a million."""
    return f"{float(f'{x:.{count}g}'):g}"


def _variance(m: Moments) -> dict[str, Any]:
    variance = {"value": m.trace, "standard error": m.trace_error}
    snr = m.snr if np.isfinite(m.snr) else None  # JSON knows no infinity
    return {"variance": variance, "snr": snr, "num_samples": m.num_samples}


def _numbers(m: Moments) -> dict[str, Any]:
    mean = m.mean if not np.iscomplexobj(m.mean) else np.stack([m.mean.real, m.mean.imag], -1)
    return {"mean": mean.tolist(), "standard error": m.error.tolist(), **_variance(m)}


def _dots(axes: Any, values: Any, spreads: Any, names: Sequence[str]) -> None:
    """One row of dots for each strategy; zeros on the left edge, written as such."""
    positive = [x for row in values for x in row if x > 0]
    least = min(positive, default=1.0) / 10
    for j, name in enumerate(names):
        xs = np.array([row[j] for row in values])
        errors = np.array([row[j] for row in spreads])
        shown = np.maximum(xs, least)
        lower = np.minimum(errors, 0.9 * shown)  # a logarithmic axis ends before zero
        bars = np.stack([lower, errors])
        axes.errorbar(shown, np.arange(len(xs)), xerr=bars, fmt="o", label=name, capsize=3)
    for i, row in enumerate(values):
        if any(x == 0 for x in row):
            axes.annotate("no variance", (least, i), (8, -3), textcoords="offset points")
    axes.set_xscale("log")
    axes.grid(axis="x", alpha=0.3)


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as problem:
        raise _no_matplotlib() from problem
    return pyplot


def _no_matplotlib() -> EstimandError:
    return error(
        f"diagnosis.plot ({source_line()})",
        "figures are drawn by Matplotlib",
        expected="the extra that brings it",
        got="no module named matplotlib",
        remedy='pip install "estimand[examples]", or print the diagnosis instead',
    )
