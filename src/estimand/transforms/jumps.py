"""Which primitives are discontinuous in which operands, and the ranges of some others."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from estimand.transforms.continuous import is_continuous
from estimand.transforms.jaxprs import Equation, Literal
from estimand.transforms.supports import hull

COMPARISONS = frozenset("lt le gt ge eq ne lt_to le_to eq_to".split())
JUMPS = COMPARISONS | frozenset(
    """
    floor ceil round sign rem atan2 nextafter bitcast_convert_type reduce_precision
    eig qr lu schur householder_product tridiagonal hessenberg geqrf
    select_and_scatter_add select_and_gather_add
    pure_callback io_callback ffi_call call_hi_primitive
    """.split()
)
# of complex values only
CUTS = frozenset("log sqrt rsqrt pow cbrt log1p acos asin atan acosh asinh atanh".split())
KEEPS_RANGE = frozenset(
    "reshape squeeze broadcast_in_dim transpose copy mark expand_dims slice dynamic_slice gather "
    "rev concatenate convert_element_type stop_gradient".split()
)


def jumps(eqn: Equation, reached: Sequence[bool], used: Sequence[bool]) -> bool:
    """Whether a result that is `used` is discontinuous in an operand that is `reached`."""
    name = eqn.primitive.name
    inexact = [
        r and jnp.issubdtype(v.aval.dtype, jnp.inexact)
        for v, r in zip(eqn.invars, reached, strict=True)
    ]
    if not any(inexact):
        return False
    if name in COMPARISONS:  # x != x asks for a NaN, x == inf for an overflow
        return eqn.invars[0] is not eqn.invars[1] and not any(map(_infinite, eqn.invars))
    if name == "is_finite":
        return False
    results = [v.aval.dtype for v, u in zip(eqn.outvars, used, strict=True) if u]
    if not all(jnp.issubdtype(dtype, jnp.inexact) for dtype in results):
        return True  # what is integer or boolean jumps wherever it changes
    if name == "sort":
        return len(eqn.invars) > 1 and any(inexact[: eqn.params["num_keys"]])
    if name == "eigh":
        return used[0]  # the vectors, whose signs are arbitrary
    if name == "svd":
        return any(used[1:])
    if name in CUTS:
        return bool(jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.complexfloating))
    return name in JUMPS


def is_settled(eqn: Equation, flows: Sequence[Any]) -> bool:
    """Whether a comparison always comes out the same, given the supports of what it compares.

    NumPyro's densities ask whether a positive value is positive. At the common edge of two
    ranges there is no mass; only what is `nonnegative`, as relu is, may have some at zero.
    """
    if eqn.primitive.name not in COMPARISONS:
        return False
    a, b = (hull(f.support) if f.support is not None else None for f in flows)
    edge = any(f.support is constraints.nonnegative for f in flows)
    if a is None or b is None:
        return False
    apart = a.high < b.low or b.high < a.low
    return apart or (not edge and (a.high == b.low or b.high == a.low))


def _infinite(atom: Any) -> bool:
    return isinstance(atom, Literal) and bool(np.all(np.isinf(atom.val)))


def range_after(eqn: Equation, flows: Sequence[Any]) -> Any:
    """The support that a result is known to have, as a NumPyro constraint, or None."""
    name = eqn.primitive.name
    if is_continuous(eqn):
        name = eqn.params.get("name", name)
    if name in KEEPS_RANGE:
        kept = flows if name == "concatenate" else flows[:1]
        supports = {id(f.support): f.support for f in kept}
        return next(iter(supports.values())) if len(supports) == 1 else None
    if name in ("exp", "exp2", "cosh"):
        return constraints.positive
    if name in ("softplus", "squareplus"):
        return constraints.positive
    if name in ("relu", "square", "abs"):
        return constraints.nonnegative
    if name in ("logistic", "sigmoid"):
        return constraints.unit_interval
    return None
