"""What the check knows of a value, and how values are taken together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from estimand.transforms.primitives import Mark
from estimand.transforms.supports import Range, range_of


@dataclass(frozen=True)
class Flow:
    """What the pass knows of one value."""

    random: bool = False
    moved: bool = False
    inner: frozenset[str] = frozenset()  # expectations it is linear in
    support: Any = None  # a NumPyro constraint it satisfies, if known
    label: str = ""  # of the last site that reaches it
    observed: Mark | None = None  # it is about to be scored by this site

    @property
    def rough(self) -> bool:
        return self.random and self.moved


NONE = Flow()


def joint(flows: Sequence[Flow]) -> Flow:
    supports = {id(f.support): f.support for f in flows}
    return Flow(
        any(f.random for f in flows),
        any(f.moved for f in flows),
        frozenset().union(*(f.inner for f in flows)),
        next(iter(supports.values())) if len(supports) == 1 else None,
        next((f.label for f in flows if f.label), ""),
    )


def for_dtype(flow: Flow, aval: Any) -> Flow:
    """An integer carries no derivative."""
    return flow if jnp.issubdtype(aval.dtype, jnp.inexact) else replace(flow, moved=False)


def ranges(flows: Sequence[Flow]) -> dict[int, Range]:
    """The ranges of leaves that neither chance nor the arguments move."""
    still = {i: f.support for i, f in enumerate(flows) if not (f.random or f.moved)}
    found = {i: range_of(support) for i, support in still.items() if support is not None}
    return {i: r for i, r in found.items() if r is not None}
