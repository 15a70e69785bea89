"""Evaluating a program between the values of a discrete site.

Some strategies look at the rest of the program at real numbers in the place of a site's
integers. The program is rewritten for them: the site's value becomes floating, and what is
computed from it with it, through casts, arithmetic and moves of data, as far as it is cast to
a floating number. Any continuous extension will do, since it only enters control variates (or
estimators that are called biased).

An operation that has no continuous extension (a comparison, an index, a branch) is refused.
Inside of a density it is given the nearest integer value instead: whether a value is in the
support is not a question of what lies in between.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from estimand.errors import EstimandError, error
from estimand.transforms.continuous import is_density
from estimand.transforms.guards import is_inexact
from estimand.transforms.interpret import has_sites, source_of
from estimand.transforms.jaxprs import (
    Equation,
    Jaxpr,
    bind_environment,
    close,
    evaluate,
    read,
    subjaxprs,
    trace,
)
from estimand.transforms.primitives import Site, mark, mark_p, sample_p

MOVES = frozenset(
    "reshape broadcast_in_dim squeeze expand_dims transpose slice dynamic_slice gather rev "
    "concatenate pad copy copy_p stack unstack split select_n stop_gradient".split()
)
ARITHMETIC = frozenset(
    "add sub mul neg square integer_pow reduce_sum cumsum dot_general add_any".split()
)
CALLS = frozenset("jit pjit closed_call core_call".split())


class Soft(NamedTuple):
    """A value that is an integer in the program: between its values, and the nearest one."""

    soft: Any
    hard: Any


def relax(jaxpr: Jaxpr, wanted: Callable[[Site, Sequence[Any]], bool]) -> Jaxpr:
    """The same flat program, in which the values of the wanted sites are floating."""
    sites = [eqn for eqn in close(jaxpr).jaxpr.eqns if eqn.primitive is sample_p]
    if not any(wanted(eqn.params["site"], [v.aval for v in eqn.invars]) for eqn in sites):
        return jaxpr

    def run(*args: Any) -> list[Any]:
        outs = _Relaxation(wanted).run(jaxpr, args)
        return [out.hard if isinstance(out, Soft) else out for out in outs]

    return trace(run, *(v.aval for v in close(jaxpr).jaxpr.invars))[0]


class _Relaxation:
    def __init__(self, wanted: Callable[[Site, Sequence[Any]], bool]):
        self.wanted = wanted
        self.site: Site | None = None  # for messages: the last that was made floating
        self.dense = False  # inside of a density

    def run(self, jaxpr: Jaxpr, args: Sequence[Any]) -> list[Any]:
        env = bind_environment(jaxpr, args)
        inner = close(jaxpr).jaxpr
        for eqn in inner.eqns:
            operands = [read(env, v) for v in eqn.invars]
            env.update(zip(eqn.outvars, self._one(eqn, operands), strict=True))
        return [read(env, v) for v in inner.outvars]

    def _one(self, eqn: Equation, operands: list[Any]) -> list[Any]:
        if eqn.primitive is sample_p and self.wanted(eqn.params["site"], operands):
            return [self._value(eqn.params["site"], operands)]
        if not any(isinstance(x, Soft) for x in operands):
            return evaluate(eqn, *operands)
        if eqn.primitive.name in CALLS and not any(map(has_sites, subjaxprs(eqn))):
            return self._call(eqn, operands)
        hard = evaluate(eqn, *(x.hard if isinstance(x, Soft) else x for x in operands))
        soft = self._extended(eqn, [x.soft if isinstance(x, Soft) else x for x in operands])
        if soft is not None:
            pairs = zip(soft, hard, strict=True)
            return [s if is_inexact(h) else Soft(s, h) for s, h in pairs]
        if self.dense:
            return hard
        raise _no_extension(eqn, self.site)

    def _call(self, eqn: Equation, operands: list[Any]) -> list[Any]:
        outer, self.dense = self.dense, self.dense or is_density(eqn)
        (body,) = subjaxprs(eqn)
        outs = self.run(body, operands)
        self.dense = outer
        return outs

    def _value(self, site: Site, leaves: list[Any]) -> Soft:
        self.site = site
        soft = sample_p.bind(*leaves, site=replace(site, relaxed=True))
        near = mark(soft, "continuous")
        event = site.structure.placeholder(site.bare(leaves)).event_shape
        hard = jax.nn.one_hot(jnp.argmax(near, axis=-1), event[0]) if event else near > 0.5
        return Soft(soft, hard.astype(jnp.result_type(int)))

    def _extended(self, eqn: Equation, operands: list[Any]) -> list[Any] | None:
        """The equation on floating operands, if it means something there."""
        name, params = eqn.primitive.name, dict(eqn.params)
        if eqn.primitive is mark_p:
            return evaluate(eqn, *operands)
        if name == "convert_element_type":
            to = params["new_dtype"]
            if to == jnp.bool_:
                return None
            return [operands[0].astype(to) if jnp.issubdtype(to, jnp.inexact) else operands[0]]
        if name not in MOVES | ARITHMETIC:
            return None
        dtype = next(x.dtype for x in operands if is_inexact(x))
        indices = {"gather": 1, "dynamic_slice": 1}.get(name, len(operands))
        first = 1 if name == "select_n" else 0
        if is_inexact(operands[0]) and name == "select_n":
            return None  # selected by the value itself
        cast = [
            x.astype(dtype) if first <= i < indices and not is_inexact(x) else x
            for i, x in enumerate(map(jnp.asarray, operands))
        ]
        if any(is_inexact(x) for x in cast[indices:]):
            return None  # it is the index
        if "preferred_element_type" in params:
            params["preferred_element_type"] = dtype
        return evaluate(eqn.replace(params=params), *cast)


def _no_extension(eqn: Equation, site: Site | None) -> EstimandError:
    assert site is not None
    return error(
        site.where,
        f"{site.via if site.via is not None else 'its strategy'} evaluates the program between "
        "the values of the site, and this operation has no continuous extension",
        expected="a value that is cast to a floating number and calculated with",
        got=f"{eqn.primitive.name} ({source_of(eqn)}) of the integer",
        remedy="write x.astype(float) and arithmetic instead of comparing or indexing, or use "
        "another strategy",
    )
