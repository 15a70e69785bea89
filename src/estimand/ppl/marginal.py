"""Marginals and posteriors of generative functions, which are generative functions.

Of a program with choices (x, u) and density p, the marginal of x has the density
p(x) = integral of p(x, u) du, and the posterior of u given x the density p(x, u) / p(x). Neither
is known in general. A method (`Importance`, `SMC`, `Enumerate`) gives an estimate Z of p(x):

    marginal.assess(x)      log Z, u from the method               E[Z] = p(x)
    marginal.simulate()     x, log Z, the run's own u among them   E[1/Z | x] = 1/p(x)
    posterior.simulate()    u from the method, log p(x, u) - log Z
    posterior.assess(u)     log p(x, u) - log Z, the given u among them

The posterior's pair (u, log density) is that of the method's own sampler: one that is near the
posterior, for which the estimates of the densities are what the first two are for p(x).

Each is one equation of the program that calls it (`estimated_p`). Whoever interprets that program
runs these programs in its place, so that their sites are ordinary ones.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from estimand.errors import error, source_line
from estimand.estimators.enumerate import Enumerate
from estimand.ppl.choices import check_choices, unflatten
from estimand.ppl.exact import Exact
from estimand.ppl.importance import Importance, check_proposal
from estimand.ppl.smc import SMC
from estimand.ppl.target import Program, Target, program_of
from estimand.transforms.jaxprs import trace
from estimand.transforms.primitives import Estimated, estimated_p
from estimand.transforms.staging import stage
from estimand.transforms.survey import Found

Names = str | tuple[str, ...]


def marginal_of(
    fun: Callable, owner: str, keep: Names | None, drop: Names | None, via: Any
) -> Callable:
    """The program of the values that are kept, which returns them."""
    name, source = f"{owner}.marginal", source_line()
    where = f"{name} ({source})"
    method = method_of(via, where)
    if (keep is None) == (drop is None):
        raise error(
            where,
            "a marginal keeps some choices and drops the others",
            expected="keep= or drop=, one of the two",
            got="both" if keep is not None else "neither",
            remedy=f"write {name}(keep='x'), or drop= with the names of the others",
        )

    def marginal(*args: Any, **kwargs: Any) -> dict[str, Any]:
        program, operands = staged_program(fun, owner, args, kwargs)
        kept = _kept(program, keep, drop, where)
        given = {k: jax.ShapeDtypeStruct(s.shape, s.dtype) for k, s in program.sites.items()}
        proposal, more = proposal_of(method, program, {k: given[k] for k in kept}, where)
        count = len(operands)

        def target(xs: Any, values: dict[str, Any]) -> Target:
            return Target(name, program, xs[:count], values, proposal, xs[count:])

        def draw(*xs: Any) -> list[Any]:
            run = program.run(xs[:count], {})
            return [run.choices[k] for k in kept]

        def simulate(*xs: Any) -> tuple[list[Any], Any]:
            run = program.run(xs[:count], {}, kept if proposal is None else ())
            values = {k: run.choices[k] for k in kept}
            return list(values.values()), method.log_evidence(target(xs, values), run)

        def assess(xs: list[Any], values: list[Any]) -> Any:
            return method.log_evidence(target(xs, dict(zip(kept, values, strict=True))))

        law = Estimated(
            name, source, _only(program, kept), draw, simulate, assess, method.estimator
        )
        outs = estimated_p.bind(*operands, *more, law=law)
        return unflatten(dict(zip(kept, outs, strict=True)))

    marginal.__name__ = name
    return marginal


def posterior_of(fun: Callable, owner: str, observed: dict[str, Any], via: Any) -> Callable:
    """The program of the values that are not observed, which returns them."""
    name, source = f"{owner}.normalize", source_line()
    where = f"{name} ({source})"
    method = method_of(via, where)

    def posterior(*args: Any, **kwargs: Any) -> dict[str, Any]:
        program, operands = staged_program(fun, owner, args, kwargs)
        given = check_choices(observed, program.found, owner, every=False)
        proposal, more = proposal_of(method, program, given, where)
        latent = [k for k in program.sites if k not in given]
        count, size = len(given), len(given) + len(operands)

        def target(xs: Any) -> Target:
            values = dict(zip(given, xs[:count], strict=True))
            return Target(name, program, xs[count:size], values, proposal, xs[size:])

        def draw(*xs: Any) -> list[Any]:
            return simulate(*xs)[0]

        def simulate(*xs: Any) -> tuple[list[Any], Any]:
            values, density = method.choose(target(xs))
            return [values[k] for k in latent], density

        def assess(xs: list[Any], values: list[Any]) -> Any:
            on = target(xs)
            choices = {**on.given, **dict(zip(latent, values, strict=True))}
            run = program.run(on.operands, choices, on.given if proposal is None else ())
            return run.log_density - method.log_evidence(on, run)

        law = Estimated(
            name, source, _only(program, latent), draw, simulate, assess, method.estimator
        )
        outs = estimated_p.bind(*given.values(), *operands, *more, law=law)
        return unflatten(dict(zip(latent, outs, strict=True)))

    posterior.__name__ = name
    return posterior


def staged_program(fun: Callable, name: str, args: Any, kwargs: Any) -> tuple[Program, list[Any]]:
    staged = stage(fun, *args, **kwargs)
    return program_of(staged.jaxpr, name), [*staged.jaxpr.consts, *staged.inputs]


def _only(program: Program, names: list[str]) -> tuple[Found, ...]:
    return tuple(program.sites[k] for k in names)


def method_of(via: Any, where: str) -> Any:
    if isinstance(via, Enumerate):
        return Exact(via)
    if isinstance(via, SMC):
        return via
    if via is None or isinstance(via, Importance):
        return via or Importance()
    raise error(
        where,
        "via= says how choices are integrated out",
        expected="em.Importance(proposal, n), em.SMC(n) or em.Enumerate()",
        got=repr(via),
        remedy="strategies of sites belong to the sites of the program, or to using()",
    )


def _kept(program: Program, keep: Names | None, drop: Names | None, where: str) -> list[str]:
    """The addresses that are kept, in the order of the program."""
    names = keep if drop is None else drop
    names = (names,) if isinstance(names, str) else tuple(names or ())
    known = list(program.sites)
    among: set[str] = set()
    for name in names:
        matching = {k for k in known if k == name or k.startswith(f"{name}/")}
        if not matching:
            raise error(
                where,
                f"{program.name} has no choice {name!r}",
                expected=f"addresses, or groups of them, among {', '.join(known) or 'none'}",
                got=repr(name),
                remedy="check the spelling; a choice in a scope is 'scope/name'",
            )
        among |= matching
    kept = [k for k in known if (k in among) == (drop is None)]
    if not kept:
        raise error(
            where,
            "a marginal of no choices has nothing to draw or to be assessed at",
            expected="at least one address that is kept",
            got="none",
            remedy=f"em.log_marginal_likelihood({program.name}, {{}}, key=key) is the log of the "
            "program's total weight",
        )
    return kept


def proposal_of(
    method: Any, program: Program, given: dict[str, Any], where: str
) -> tuple[Program | None, list[Any]]:
    """The staged proposal of what is not given, and its operands but for what is given."""
    fun = getattr(method, "proposal", None)
    if fun is None:
        return None, []
    avals = {k: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for k, x in given.items()}
    if not hasattr(fun, "fun"):
        raise error(
            where,
            "a proposal is a generative function of the given choices",
            expected="a function decorated with em.gen, which takes a dict of them",
            got=repr(fun),
            remedy="decorate it with @em.gen; what it also depends on is closed over",
        )
    jaxpr, _ = trace(fun.fun, unflatten(avals))
    proposal = program_of(jaxpr, fun.name)
    check_proposal(proposal, program, set(given), where)
    return proposal, list(jaxpr.consts)
