"""Where the first NaN or infinity of an estimate comes from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from estimand.transforms.combine import Lifted
from estimand.transforms.continuous import is_density
from estimand.transforms.guards import is_inexact
from estimand.transforms.interpret import Path
from estimand.transforms.jaxprs import Equation, Jaxpr, Literal, close, subjaxprs
from estimand.transforms.lift import Forward
from estimand.transforms.plan import Plan
from estimand.transforms.primitives import mark_p, sample_p
from estimand.transforms.sources import source_of


def first_nonfinite(
    plan: Plan, inputs: Sequence[Any], names: Sequence[str], key: Any, states: Mapping[Path, Any]
) -> str | None:
    """A sentence on the first non-finite value of a forward run, in program order.

    A site says more than the input (of these names) that it sees, and that than an operation.
    """
    inner = close(plan.jaxpr).jaxpr
    forward = Forward(plan, key, states)
    env = forward.run(inputs)
    marked: dict[Any, str] = {}
    for eqn in inner.eqns:
        if eqn.primitive is mark_p and eqn.params["mark"].name:
            mark = eqn.params["mark"]
            marked[eqn.outvars[0]] = f"site {mark.name!r} ({mark.source})"
    for i, eqn in enumerate(inner.eqns):
        if eqn.primitive is sample_p:
            site, info = eqn.params["site"], plan.sites[i,]
            for (name, _), v in zip(site.structure.slots(), eqn.invars, strict=True):
                if _bad(v, env):
                    return f"{info.where}: its parameter {name!r} is {_what(v, env)}"
            if _bad(eqn.outvars[0], env):
                return f"{info.where}: its value is {_what(eqn.outvars[0], env)}"
        elif eqn.outvars[0] in marked and _bad(eqn.outvars[0], env):
            return f"{marked[eqn.outvars[0]]}: the value it scores is {_what(eqn.outvars[0], env)}"
        elif is_density(eqn) and _bad(eqn.outvars[0], env):
            where = marked.get(eqn.invars[0], "a site")
            return f"{where}: its log density is {_what(eqn.outvars[0], env)}"
    for name, v in zip(names, inner.invars, strict=True):
        if _bad(v, env):
            return f"{name} is {_what(v, env)}"
    for eqn in inner.eqns:
        bad = [v for v in eqn.outvars if _bad(v, env)]
        if bad:
            return f"{_name(eqn)} is {_what(bad[0], env)}"
    return _control(forward)


def _control(forward: Forward) -> str | None:
    """A sentence on the first control variate, such as a baseline, that is not finite."""
    live = {p for term in forward.plan.terms for p, dep in term.deps.items() if dep.live}
    for path, drawn in forward.drawn.items():
        control = drawn.control() if path in live else None
        if control is not None and not bool(jnp.all(jnp.isfinite(control.array))):
            return (
                f"{drawn.info.where}: the baseline or control variate of its strategy is not finite"
            )
    return None


def _name(eqn: Equation) -> str:
    inside = ", ".join(sorted({n for body in subjaxprs(eqn) for n in _sites(body)}))
    where = f"{eqn.primitive.name} ({source_of(eqn)})"
    return f"{where}, which holds {inside}: its result" if inside else f"the result of {where}"


def _sites(jaxpr: Jaxpr) -> Iterator[str]:
    for eqn in close(jaxpr).jaxpr.eqns:
        site, mark = eqn.params.get("site"), eqn.params.get("mark")
        name = (site.label or site.name) if site else mark and mark.name
        if eqn.primitive in (sample_p, mark_p) and name:
            yield f"site {name!r}"
        for body in subjaxprs(eqn):
            yield from _sites(body)


def _bad(atom: Any, env: dict[Any, Lifted]) -> bool:
    if not isinstance(atom, Literal) and atom not in env:
        return False  # part of the linear rest
    x = atom.val if isinstance(atom, Literal) else env[atom].array
    return is_inexact(x) and not bool(jnp.all(jnp.isfinite(x)))


def _what(atom: Any, env: dict[Any, Lifted]) -> str:
    x = jnp.asarray(atom.val if isinstance(atom, Literal) else env[atom].array)
    kind = "NaN" if bool(jnp.any(jnp.isnan(x))) else "infinite"
    bad = int(jnp.sum(~jnp.isfinite(x)))
    return f"{kind} in {bad} of {x.size} entries" if x.ndim else kind
