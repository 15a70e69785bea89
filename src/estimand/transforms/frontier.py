"""Where an objective stops being linear: its terms.

Backward from the outputs through additions, scalings by numbers that no weighted site
reaches, sums, reshapes and the like. What is reached is a linear function of the *terms*,
the values at which that ends. Expectations go through linear functions, so each term may be
combined over its own sites alone. Membership is per use: a value that also enters something
non-linear is read there as it is.

A scan is linear in a body's terms where its outputs and carries are, so a loss that is
summed in a carry has one term per step. Nothing integer or boolean is linear.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from estimand.transforms.dependence import Analysis
from estimand.transforms.interpret import Path
from estimand.transforms.jaxprs import Equation, Literal, Var, close, scan_arity

UNARY = frozenset(
    "neg reduce_sum reshape broadcast_in_dim squeeze transpose copy rev slice expand_dims cumsum "
    "convert_element_type split unstack tile name device_put reduce_window_sum".split()
)
ADDITIVE = frozenset("add sub add_any concatenate pad stack".split())
BILINEAR = frozenset("mul dot_general conv_general_dilated".split())
# operands (the first few) that are linear once all the others are free of weighted sites
SELECTING = {"gather": (0,), "dynamic_slice": (0,), "dynamic_update_slice": (0, 1), "div": (0,)}


@dataclass
class Frontier:
    """The linear part of one jaxpr.

    `linear` are the values the outputs are linear in, terms included; `equations` the
    indices of the linear equations; `bodies` the frontiers of scans that are linear, by the
    scan's path, and `slots` the scan's linear carries.
    """

    linear: set[Var] = field(default_factory=set)
    terms: list[Var] = field(default_factory=list)
    equations: list[int] = field(default_factory=list)
    bodies: dict[int, "Frontier"] = field(default_factory=dict)
    slots: frozenset[int] = frozenset()


def frontier(analysis: Analysis, outputs: Iterable[Any], path: Path = ()) -> Frontier:
    """The linear part behind `outputs` (variables of the analysed jaxpr)."""
    found = Frontier({v for v in outputs if _counts(analysis, v)})
    equations = close(analysis.jaxpr).jaxpr.eqns
    made: set[Var] = set()
    for i in reversed(range(len(equations))):
        eqn = equations[i]
        reached = [k for k, v in enumerate(eqn.outvars) if v in found.linear]
        if not reached:
            continue
        operands = _linear_operands(eqn, analysis, found, i, (*path, i), reached)
        if operands is None or not all(_inexact(eqn.invars[k]) for k in operands):
            continue
        found.linear.update(eqn.invars[k] for k in operands if _counts(analysis, eqn.invars[k]))
        found.equations.insert(0, i)
        made.update(eqn.outvars)
    found.terms = [v for v in analysis.env if v in found.linear and v not in made]
    return found


def _counts(analysis: Analysis, atom: Any) -> bool:
    return not isinstance(atom, Literal) and bool(analysis.state(atom).deps)


def _inexact(atom: Any) -> bool:
    return bool(jnp.issubdtype(atom.aval.dtype, jnp.inexact))


def _linear_operands(
    eqn: Equation, analysis: Analysis, found: Frontier, i: int, path: Path, reached: list[int]
) -> list[int] | None:
    if eqn.primitive.name == "scan":
        return _scan(eqn, analysis, found, i, path, reached)
    dependent = [k for k, v in enumerate(eqn.invars) if _counts(analysis, v)]
    return dependent if is_linear(eqn, dependent) else None


def is_linear(eqn: Equation, operands: list[int]) -> bool:
    """Whether an equation is jointly linear in these operands, whatever the others are."""
    name = eqn.primitive.name
    if name == "mark":
        return eqn.params["mark"].kind != "detach"
    if name == "convert_element_type":
        return bool(jnp.issubdtype(eqn.params["new_dtype"], jnp.inexact))
    if name in BILINEAR:
        return len(operands) == 1
    if name == "select_n":
        return 0 not in operands
    if name in SELECTING:
        return set(operands) <= set(SELECTING[name])
    if name in ("scatter-add", "scatter-sub"):
        return 1 not in operands
    return name in UNARY or name in ADDITIVE


def _scan(
    eqn: Equation, analysis: Analysis, found: Frontier, i: int, path: Path, reached: list[int]
) -> list[int]:
    """A body's frontier from its linear outputs; a carry that is used linearly is one too."""
    num_consts, num_carry = scan_arity(eqn)
    body = analysis.bodies[path]
    inner = close(body.jaxpr).jaxpr
    slots = {k for k in reached if k < num_carry}
    while True:
        outs = [inner.outvars[k] for k in sorted(slots | set(reached))]
        inside = frontier(body, outs, path)
        used = {k for k, v in enumerate(inner.invars) if v in inside.linear}
        carried = {k - num_consts for k in used if num_consts <= k < num_consts + num_carry}
        if carried <= slots:
            break
        slots |= carried
    inside.slots = frozenset(slots)
    inside.terms = [v for v in inside.terms if v not in set(inner.invars)]
    found.bodies[i] = inside
    return sorted(used | {num_consts + k for k in slots})
