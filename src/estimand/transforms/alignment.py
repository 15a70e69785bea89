"""How an equation carries the axes of its operands to its results.

Problem: whether two lanes of a site ever meet is a question about axes. A rule answers it
for one primitive: for each operand, a dict from its axes to axes of the results,

    maps[operand][axis] = (axis of the result, relation)

with relation "=" if entry i of the result depends on entry i of the operand only, "<" if on
entries up to i, ">" if on entries from i on. An axis that is left out is *mixed*, which is
always sound; a primitive without a rule mixes everything.
"""

from collections.abc import Callable
from typing import Any

from estimand.transforms.jaxprs import Equation

AxisMap = dict[int, tuple[int, str]]

ELEMENTWISE = frozenset(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
    clz
    complex conj convert_element_type copy cos cosh digamma div eq eq_to erf erf_inv
    erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag integer_pow is_finite le
    le_to lgamma log log1p logistic lt lt_to mark max min mul ne neg nextafter not or
    polygamma population_count pow random_gamma_grad real reduce_precision
    regularized_incomplete_beta
    rem round rsqrt select_n shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta
    sharding_constraint name device_put log2 mulhi one_minus_square
    """.split()
)
REDUCTIONS = frozenset(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax "
    "argmin".split()
)
CUMULATIONS = frozenset("cumsum cumprod cummax cummin cumlogsumexp".split())
LEADING = frozenset(
    "cholesky triangular_solve eigh eig lu lu_pivots_to_permutation householder_product qr svd "
    "tridiagonal tridiagonal_solve schur symmetric_product geqrf hessenberg".split()
)


def axis_maps(eqn: Equation) -> list[AxisMap]:
    """The rule of this equation, applied; see the module's docstring."""
    name = eqn.primitive.name
    if not eqn.outvars:
        return [{} for _ in eqn.invars]
    shapes = [tuple(v.aval.shape) for v in eqn.invars]
    out = tuple(eqn.outvars[0].aval.shape)
    if name in ELEMENTWISE:
        return [same_axes(shape, out) for shape in shapes]
    if name in REDUCTIONS:
        return [_dropping(shape, eqn.params["axes"]) for shape in shapes]
    if name in CUMULATIONS:
        axis, relation = eqn.params["axis"], ">" if eqn.params["reverse"] else "<"
        return [{i: (i, relation if i == axis else "=") for i in range(len(s))} for s in shapes]
    if name in LEADING:
        return [{i: (i, "=") for i in range(len(shape) - 2)} for shape in shapes]
    rule = RULES.get(name)
    return rule(eqn, shapes, out) if rule else [{} for _ in shapes]


def same_axes(shape: tuple[int, ...], out: tuple[int, ...]) -> AxisMap:
    """Axes that stay; a scalar operand has none, and a size-one axis that grows is mixed."""
    if len(shape) != len(out):
        return {}
    return {i: (i, "=") for i, (a, b) in enumerate(zip(shape, out, strict=True)) if a == b}


def _dropping(shape: tuple[int, ...], axes: Any) -> AxisMap:
    kept = [i for i in range(len(shape)) if i not in axes]
    return {axis: (j, "=") for j, axis in enumerate(kept)}


def _except(ndim: int, axes: Any) -> AxisMap:
    return {i: (i, "=") for i in range(ndim) if i not in axes}


def _broadcast_in_dim(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    dims = eqn.params["broadcast_dimensions"]
    first = {i: (d, "=") for i, d in enumerate(dims) if shapes[0][i] == out[d]}
    return [first, *({} for _ in shapes[1:])]


def _reshape(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    """An axis stays if its size and the number of entries before it stay."""
    shape, maps = shapes[0], {}
    if eqn.params.get("dimensions") is None:
        before = 1
        starts: dict[tuple[int, int], int] = {}
        for j, n in enumerate(out):
            starts[before, n] = starts.get((before, n), j)
            before *= n
        before = 1
        for i, n in enumerate(shape):
            if n > 1 and (before, n) in starts:
                maps[i] = (starts[before, n], "=")
            before *= n
    return [maps, *({} for _ in shapes[1:])]


def _transpose(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    return [{axis: (j, "=") for j, axis in enumerate(eqn.params["permutation"])}]


def _squeeze(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    return [_dropping(shapes[0], eqn.params["dimensions"])]


def _concatenate(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    return [_except(len(out), [eqn.params["dimension"]]) for _ in shapes]


def _unchanged_sizes(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    """Slices: an axis that is taken whole stays; start indices are mixed."""
    return [same_axes(shapes[0], out), *({} for _ in shapes[1:])]


def _stack(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    axis = eqn.params["axis"]
    return [{i: (i + (i >= axis), "=") for i in range(len(shape))} for shape in shapes]


def _unstack(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    return [_dropping(shapes[0], [eqn.params["axis"]])]


def _tile(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    return [{i: (i, "=") for i, n in enumerate(eqn.params["reps"]) if n == 1}]


def _reduce_window(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    names = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
    still = [
        all(eqn.params[name][i] == 1 for name in names)
        and tuple(eqn.params["padding"][i]) == (0, 0)
        for i in range(len(out))
    ]
    return [{i: j for i, j in same_axes(s, out).items() if still[i]} for s in shapes]


def _dynamic_update_slice(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    return [same_axes(out, out), same_axes(shapes[1], out), *({} for _ in shapes[2:])]


def _pad(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    still = [i for i, c in enumerate(eqn.params["padding_config"]) if tuple(c) == (0, 0, 0)]
    return [{i: (i, "=") for i in still}, {}]


def _rev(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    return [_except(len(out), eqn.params["dimensions"])]


def _sort(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    return [_except(len(shape), [eqn.params["dimension"]]) for shape in shapes]


def _top_k(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    axis = eqn.params.get("axis", len(out) - 1)
    return [_except(len(out), [axis, axis % len(out)])]


def _split(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    return [_except(len(out), [eqn.params["axis"]])]


def _dot_general(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    """Batch axes first, then the free axes of the left, then those of the right."""
    contract, batch = eqn.params["dimension_numbers"]
    position = len(batch[0])
    maps = []
    for shape, contracted, batched in zip(shapes, contract, batch, strict=True):
        axes = {axis: (j, "=") for j, axis in enumerate(batched)}
        for axis in range(len(shape)):
            if axis not in contracted and axis not in batched:
                axes[axis] = (position, "=")
                position += 1
        maps.append(axes)
    return maps


def _conv(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    numbers = eqn.params["dimension_numbers"]
    if eqn.params["batch_group_count"] != 1:
        return [{}, {}]
    return [{numbers.lhs_spec[0]: (numbers.out_spec[0], "=")}, {}]


def _gather(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    """Axes of the indices stay; so do axes of the operand that are taken whole."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    batch_out = [j for j in range(len(out)) if j not in numbers.offset_dims]
    indices = {i: (j, "=") for i, j in enumerate(batch_out)}
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    window = [i for i in range(len(shapes[0])) if i not in gone]
    operand = {
        i: (j, "=")
        for i, j in zip(window, numbers.offset_dims, strict=True)
        if sizes[i] == shapes[0][i]
    }
    pairs = zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    operand.update({i: indices[k] for i, k in pairs})
    return [operand, indices]


def _scatter(eqn: Equation, shapes: Any, out: Any) -> list[AxisMap]:
    """The operand stays; updates keep whole window axes and batching axes."""
    numbers = eqn.params["dimension_numbers"]
    batching = dict(
        zip(numbers.scatter_indices_batching_dims, numbers.operand_batching_dims, strict=True)
    )
    indices = {i: (j, "=") for i, j in batching.items()}
    gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    window = [i for i in range(len(out)) if i not in gone]
    updates = {
        k: (i, "=")
        for k, i in zip(numbers.update_window_dims, window, strict=True)
        if shapes[2][k] == out[i]
    }
    rest = [k for k in range(len(shapes[2])) if k not in numbers.update_window_dims]
    updates.update({rest[i]: (j, "=") for i, j in batching.items()})
    return [same_axes(out, out), indices, updates]


RULES: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "concatenate": _concatenate,
    "slice": _unchanged_sizes,
    "dynamic_slice": _unchanged_sizes,
    "dynamic_update_slice": _dynamic_update_slice,
    "pad": _pad,
    "rev": _rev,
    "sort": _sort,
    "top_k": _top_k,
    "split": _split,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "reduce_window_sum": _reduce_window,
    "reduce_window_max": _reduce_window,
    "reduce_window_min": _reduce_window,
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
    "gather": _gather,
    "scatter": _scatter,
    "scatter-add": _scatter,
    "scatter-sub": _scatter,
    "scatter-mul": _scatter,
    "scatter-min": _scatter,
    "scatter-max": _scatter,
    "expand_dims": _broadcast_in_dim,
}
