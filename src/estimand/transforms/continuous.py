"""Functions that are continuous although their jaxprs compare: JAX's own, known by name.

Each is continuous and piecewise differentiable, so pathwise derivatives through it are
right. Some are calls in the jaxpr (`jit`, `custom_jvp`) and are known by the function that was
called; others only leave their frames in the tracebacks of the equations they made. Either
way the function must be JAX's (or NumPyro's, whose cross-entropy is among them, or one of
`repairs.py`): a user's function of the same name is looked into.
"""

import os
from collections.abc import Sequence

from estimand.errors import is_jax, is_users
from estimand.transforms.jaxprs import Equation, Jaxpr, close, is_derivative, subjaxprs

CONTINUOUS = frozenset(
    """
    relu relu6 leaky_relu elu selu celu gelu silu swish hard_tanh hard_sigmoid hard_silu
    sparse_plus sparse_sigmoid softplus squareplus log_sigmoid sigmoid
    logaddexp logaddexp2 logsumexp softmax log_softmax _softmax
    xlogy xlog1py entr kl_div rel_entr log_ndtr ndtr ndtri _ndtri logit expit
    logcosh log1mexp sinc hypot det _det slogdet _slogdet expm norm vector_norm
    abs fabs absolute maximum minimum fmax fmin max min amax amin clip ptp
    betaln betainc gammaln digamma multigammaln spence expi exp1 sici fresnel
    binary_cross_entropy_with_logits _softplus _clamped_log
    """.split()
)

KINKED = frozenset(
    """
    relu relu6 leaky_relu elu celu selu hard_tanh hard_sigmoid hard_silu sparse_plus sparse_sigmoid
    abs fabs absolute maximum minimum fmax fmin max min amax amin clip ptp norm vector_norm
    """.split()
)


def is_continuous(eqn: Equation, used: Sequence[bool] = (), derived: bool = False) -> bool:
    """Whether an equation belongs to a function of JAX's that is known to be continuous.

    `used` says which of its results are: the sign that `slogdet` returns first is not
    continuous, its second result is. `derived` says that it is inside of a derivative: that of
    a function with a kink jumps, though it has the name and the frames of the function.
    """
    known = CONTINUOUS - KINKED if derived or is_derivative(eqn) else CONTINUOUS
    bodies = list(subjaxprs(eqn))
    if not bodies:
        return bool(known & _callers(eqn))
    name, _, file = bodies[0].jaxpr.debug_info.func_src_info.partition(" at ")
    own = os.path.basename(file).startswith("repairs.py:") and not is_users(file)
    if not (own or is_jax(file)) or _differentiates(bodies[0]):
        return False
    if name in ("_interp", "_map_coordinates") and known is not CONTINUOUS:
        return False
    if name == "_interp":  # left=, right= and period= jump at the ends
        return len(eqn.invars) == 3
    if name in ("slogdet", "_slogdet") and used and used[0]:
        return False
    if name == "_map_coordinates":  # order=0 takes the nearest pixel
        return not _rounds(bodies[0])
    return name in known


def _differentiates(jaxpr: Jaxpr) -> bool:
    """Whether this is a derivative: jit(grad(f)) has the name of f."""
    return any(
        is_derivative(eqn) or any(map(_differentiates, subjaxprs(eqn)))
        for eqn in close(jaxpr).jaxpr.eqns
    )


def _rounds(jaxpr: Jaxpr) -> bool:
    return any(
        eqn.primitive.name == "round" or any(map(_rounds, subjaxprs(eqn)))
        for eqn in close(jaxpr).jaxpr.eqns
    )


KINKS = frozenset(
    "abs max min clamp reduce_max reduce_min cummax cummin sort top_k reduce_window_max "
    "reduce_window_min".split()
)


def has_kink(eqn: Equation) -> bool:
    """Whether an equation that is taken as a whole is continuous with a derivative that jumps.

    For a density that is one that it is written with, outside of functions with rules of their
    own: the Laplace has one. What logsumexp and the like are made of does not count.
    """
    bodies = list(subjaxprs(eqn))
    if not bodies:
        return eqn.primitive.name in KINKS and not (CONTINUOUS - KINKED) & _callers(eqn)
    if is_density(eqn) or "name" not in eqn.params:
        return any(map(_kinked, bodies))
    return eqn.params["name"] in KINKED | {"_interp", "_map_coordinates"}


def _kinked(jaxpr: Jaxpr) -> bool:
    eqns = close(jaxpr).jaxpr.eqns
    return any(has_kink(eqn) for eqn in eqns if not eqn.primitive.name.startswith("custom_"))


def is_density(eqn: Equation) -> bool:
    """Whether this is the library's own `log_density` of a site."""
    return eqn.params.get("name") == DENSITY


DENSITY = "estimand_log_density"


def _callers(eqn: Equation) -> set[str]:
    """The library functions between an equation and the user's code."""
    names: set[str] = set()
    recorded = eqn.source_info.traceback
    for frame in recorded.frames if recorded else ():
        if is_users(frame.file_name):
            break
        names.add(frame.function_name)
    return names
