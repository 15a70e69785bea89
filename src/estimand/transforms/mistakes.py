"""What `check` says of each mistake: where, what was expected, what was got, what to do."""

from collections.abc import Sequence
from typing import Any

from estimand.errors import EstimandError, error
from estimand.transforms.jaxprs import Equation, close, subjaxprs
from estimand.transforms.places import SiteInfo
from estimand.transforms.primitives import Mark, Site
from estimand.transforms.sources import source_of


def jump(name: str, line: str, label: str, apart: bool) -> EstimandError:
    """`apart`: chance is on one side of a comparison, and what is differentiated on the other."""
    moved = "make what it is compared with a parameter of the site (x > c where x - c > 0) and "
    return error(
        label or f"{name} ({line})",
        f"its value reaches {name} ({line}), which is not continuous, along a path "
        "that the differentiated arguments move: a pathwise derivative would be biased",
        expected="pathwise values in continuous operations only",
        got=f"{name} of a value that is random and differentiated",
        remedy=f"{moved if apart else ''}give the site via=em.Score(), use a continuous function "
        "(jax.nn.relu, jnp.maximum), or wrap the operand in em.assume_continuous if the jump is "
        "harmless",
    )


def kink(name: str, line: str, label: str) -> EstimandError:
    return error(
        label or f"{name} ({line})",
        f"its value passes {name} ({line}), whose derivative jumps: the derivative of the "
        "surrogate is right, and that of the derivative is not",
        expected="at most one differentiation of the surrogate",
        got="a derivative of higher order",
        remedy="give the site via=em.Score(), or use a function with a continuous derivative "
        "(jax.nn.softplus, jax.nn.silu)",
    )


def moved_boundary(mark: Mark, site: Site, label: str) -> EstimandError:
    return error(
        f"site {mark.name!r} ({site.source})",
        f"it scores a random value that the differentiated arguments move against the edge of "
        f"the support of {site.distribution}: a pathwise derivative would be biased",
        expected="a value that is known to stay inside a support that does not move",
        got=f"a value computed from {label}" if label else "a computed value",
        remedy="choose a distribution for the value whose support lies inside, or wrap the value "
        "in em.assume_continuous if it cannot leave",
    )


def moving_support(where: str, site: Site, leaves: Sequence[int], strategy: Any) -> EstimandError:
    names = sorted({site.structure.slots()[i][0] for i in leaves})
    named = [repr(name) for name in names if not name.endswith("_support")]
    return error(
        where,
        f"{strategy!r} is biased where the support moves with the arguments",
        expected=f"a support of {site.distribution} that no differentiated argument reaches",
        got=f"one that a differentiated argument moves{' by ' + named[0] if named else ''}",
        remedy="use Pathwise() where the distribution has it, or sample on a fixed support and "
        "transform the value",
    )


def scored_smoothed(info: SiteInfo, strategy: Any) -> EstimandError:
    return error(
        info.where,
        f"{strategy!r} draws around its value, and the objective reads its own log density there",
        expected=f"an objective without the log density of this {info.site.distribution}",
        got="its density at points that it does not take, where it is zero",
        remedy="leave its entry of trace.log_densities out of the objective, or sample it from "
        "a Normal",
    )


def live_and_detached(where: str, eqn: Equation | None) -> EstimandError:
    line = f"{eqn.primitive.name} ({source_of(eqn)})" if eqn is not None else "the objective"
    return error(
        where,
        f"one term of the objective, {line}, holds it both detached and not",
        expected="a term that is differentiated with respect to the site, or one that is not",
        got="both in one non-linear term",
        remedy="detach every use of the site within the term, or none; or use Pathwise()",
    )


def nonlinear(eqn: Equation, inner: Sequence[str]) -> EstimandError:
    return error(
        f"{eqn.primitive.name} ({source_of(eqn)})",
        f"it is a non-linear function of the expectation {', '.join(inner)}: f(E[x]) is not "
        "E[f(x)], and one sample of x estimates only the latter",
        expected="linear uses of an expectation: sums, averages, scalings, vmap",
        got=f"{eqn.primitive.name} of an expectation, with no policy for estimating it",
        remedy="keep the expectation in a linear position; no policy for f(E[x]) is in this "
        "version. If E[f(x)] is meant, call the undecorated function",
    )


def cannot_be_mapped(eqn: Equation) -> Equation | None:
    """The first callback, in an equation or in its bodies, of which JAX knows no batch."""
    if eqn.primitive.name == "pure_callback" and eqn.params.get("vmap_method") is None:
        return eqn
    inside = (cannot_be_mapped(e) for body in subjaxprs(eqn) for e in close(body).jaxpr.eqns)
    return next(filter(None, inside), None)


def no_vmap_method(where: str, strategy: Any, eqn: Equation) -> EstimandError:
    return error(
        where,
        f"{strategy!r} evaluates what the site reaches at several points at once, and a callback "
        "in it does not say how",
        expected="a jax.pure_callback with a vmap_method",
        got=f"pure_callback ({source_of(eqn)}) with vmap_method=None",
        remedy='pass vmap_method="sequential", or "broadcast_all" if the function takes an array '
        "of points at once",
    )


def loose_factor(mark: Mark) -> EstimandError:
    return error(
        f"factor {mark.name!r} ({mark.source})",
        "a factor multiplies the density of a generative function, and here there is none",
        expected="em.factor inside a function made by em.gen, read by simulate or assess",
        got="em.factor directly in an objective",
        remedy="add the log weight to the objective's value",
    )


def moving_carry(eqn: Equation) -> EstimandError:
    return error(
        f"while_loop ({source_of(eqn)})",
        "it holds a site and carries a value that the differentiated arguments move; a loop of "
        "unknown length cannot be differentiated backwards",
        expected="carries that depend on differentiated arguments only through Score draws",
        got="a floating carry that depends on a differentiated argument",
        remedy="use lax.scan or a fori_loop with static bounds, or detach the carry",
    )
