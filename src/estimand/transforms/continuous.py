"""Functions that are continuous although their jaxprs compare: JAX's own, known by name.

Each is continuous and piecewise differentiable, so pathwise derivatives through it are
right. Some are calls in the jaxpr (`jit`, `custom_jvp`) and are known by the function that was
called; others only leave their frames in the tracebacks of the equations they made. Either
way the function must be JAX's: a user's function of the same name is looked into.
"""

from estimand.errors import is_jax
from estimand.transforms.jaxprs import Equation, Jaxpr, close, subjaxprs

CONTINUOUS = frozenset(
    """
    relu relu6 leaky_relu elu selu celu gelu silu swish hard_tanh hard_sigmoid hard_silu
    softplus squareplus log_sigmoid sigmoid logaddexp logaddexp2 logsumexp softmax
    log_softmax _softmax xlogy xlog1py entr kl_div rel_entr log_ndtr ndtr ndtri logit expit
    logcosh sinc hypot det _det slogdet _slogdet expm norm vector_norm
    abs fabs absolute maximum minimum max min amax amin clip ptp betaln betainc gammaln digamma
    multigammaln
    """.split()
)


def is_continuous(eqn: Equation) -> bool:
    """Whether an equation belongs to a function of JAX's that is known to be continuous."""
    bodies = [close(body).jaxpr for body in subjaxprs(eqn)]
    if not bodies:
        return bool(CONTINUOUS & _callers(eqn))
    name, _, file = bodies[0].debug_info.func_src_info.partition(" at ")
    if not is_jax(file):
        return False
    if name == "_interp":  # left=, right= and period= jump at the ends
        return len(eqn.invars) == 3
    if name == "_map_coordinates":  # order=0 takes the nearest pixel
        return not _rounds(bodies[0])
    return name in CONTINUOUS


def _rounds(jaxpr: Jaxpr) -> bool:
    return any(
        eqn.primitive.name == "round" or any(map(_rounds, subjaxprs(eqn)))
        for eqn in close(jaxpr).jaxpr.eqns
    )


def is_density(eqn: Equation) -> bool:
    """Whether this is the library's own `log_density` of a site."""
    return eqn.params.get("name") == DENSITY


DENSITY = "estimand_log_density"


def _callers(eqn: Equation) -> set[str]:
    """The library functions between an equation and the user's code."""
    names: set[str] = set()
    recorded = eqn.source_info.traceback
    for frame in recorded.frames if recorded else ():
        if not is_jax(frame.file_name):
            break
        names.add(frame.function_name)
    return names
