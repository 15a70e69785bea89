"""Evaluating a program between the values of a discrete site.

Some strategies look at the rest of the program at real numbers in the place of a site's
integers. The program is rewritten for them: the site's value becomes floating, and what is
computed from it with it, through casts, arithmetic and moves of data, as far as it is cast to
a floating number. Any continuous extension will do, since it only enters control variates (or
estimators that are called biased).

At an integer the extension must be the program's own value: it is as long as integers do not wrap
around. Those of 8 and 16 bits do so soon, and are refused. That an int32 or an int64 overflows
depends on numbers and cannot be seen here, nor that a float has too few digits for an integer.

An operation that has no continuous extension (a comparison, an index, a branch) is refused. Inside
of a density the value may be compared, for the sake of its support: then it is the nearest
integer that is, and all that may be made of the verdict is to put -inf in a density's place.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from estimand.errors import EstimandError, error
from estimand.transforms.continuous import is_density
from estimand.transforms.guards import is_inexact
from estimand.transforms.interpret import has_sites
from estimand.transforms.jaxprs import (
    Equation,
    Jaxpr,
    bind_environment,
    close,
    evaluate,
    is_concrete,
    read,
    subjaxprs,
    trace,
)
from estimand.transforms.primitives import Site, mark, mark_p, sample_p
from estimand.transforms.sources import inlined, source_of

MOVES = frozenset(
    "reshape broadcast_in_dim squeeze expand_dims transpose slice dynamic_slice gather rev "
    "concatenate pad copy copy_p stack unstack split select_n stop_gradient".split()
)
ARITHMETIC = frozenset(
    "add sub mul neg square integer_pow reduce_sum cumsum dot_general add_any".split()
)
SPREAD = frozenset("convert_element_type broadcast_in_dim reshape copy".split())
CALLS = frozenset("jit pjit closed_call core_call".split())


class Soft(NamedTuple):
    """A value that is an integer in the program: between its values, and the nearest one."""

    soft: Any
    hard: Any


class Verdict(NamedTuple):
    """Integers and truths that come from the nearest integers, inside of a density."""

    value: Any


def relax(jaxpr: Jaxpr, wanted: Callable[[Site, Sequence[Any], int], bool]) -> Jaxpr:
    """The same flat program, in which the values of the wanted sites are floating.

    `wanted(site, leaves, turn)` is asked of each, and told its turn in the program.
    """
    chosen, turn = set[int](), 0
    for i, eqn in enumerate(close(jaxpr).jaxpr.eqns):
        here = eqn.primitive is sample_p
        if here and wanted(eqn.params["site"], [v.aval for v in eqn.invars], turn):
            chosen.add(i)
        turn += here + sum(map(_count, subjaxprs(eqn)))
    if not chosen:
        return jaxpr

    def run(*args: Any) -> list[Any]:
        outs = _Relaxation().run(jaxpr, args, chosen)
        return [x.hard if isinstance(x, Soft) else x for x in outs]

    return trace(run, *(v.aval for v in close(jaxpr).jaxpr.invars))[0]


def _count(jaxpr: Jaxpr) -> int:
    """The number of sites in a body."""
    eqns = close(jaxpr).jaxpr.eqns
    return sum((e.primitive is sample_p) + sum(map(_count, subjaxprs(e))) for e in eqns)


class _Relaxation:
    def __init__(self) -> None:
        self.site: Site | None = None  # for messages: the last that was made floating
        self.line = "unknown source"  # for messages: the user's innermost
        self.dense = False  # inside of a density
        self.never: list[Any] = []  # arrays that are -inf throughout

    def run(
        self, jaxpr: Jaxpr, args: Sequence[Any], chosen: Collection[int] = frozenset()
    ) -> list[Any]:
        """The values of the equations, of which the `chosen` are sites to be made floating."""
        env = bind_environment(jaxpr, args)
        inner = close(jaxpr).jaxpr
        for i, eqn in enumerate(inner.eqns):
            operands = [read(env, v) for v in eqn.invars]
            if i in chosen:
                outs = [self._value(eqn.params["site"], operands)]
            else:
                outs = self._one(eqn, operands)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(env, v) for v in inner.outvars]

    def _one(self, eqn: Equation, operands: list[Any]) -> list[Any]:
        outer, line = self.line, source_of(eqn)
        self.line = outer if line == "unknown source" else line
        outs = self._outs(eqn, operands)
        self.line = outer
        return outs

    def _outs(self, eqn: Equation, operands: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        touched = any(isinstance(x, Soft | Verdict) for x in operands)
        if name in CALLS and (touched or self.dense) and not any(map(has_sites, subjaxprs(eqn))):
            return self._call(eqn, operands)
        if not touched:
            outs = evaluate(eqn, *operands)
            if name in SPREAD and self._is_never(operands[0]):
                self.never += outs
            return outs
        if any(isinstance(x, Verdict) for x in operands):
            return self._judged(eqn, operands)
        hard = evaluate(eqn, *(x.hard if isinstance(x, Soft) else x for x in operands))
        soft = self._extended(eqn, [x.soft if isinstance(x, Soft) else x for x in operands])
        if soft is not None:
            if any(map(_is_narrow, hard)):
                raise self._wraps(eqn, next(x.dtype for x in hard if _is_narrow(x)))
            pairs = zip(soft, hard, strict=True)
            return [s if is_inexact(h) else Soft(s, h) for s, h in pairs]
        if self.dense and not any(map(is_inexact, hard)):
            return [Verdict(x) for x in hard]
        raise self._no_extension(eqn)

    def _judged(self, eqn: Equation, operands: list[Any]) -> list[Any]:
        """What is made of verdicts: others, or -inf in a density's place."""
        plain = [x.value if isinstance(x, Verdict) else x for x in operands]
        if eqn.primitive.name == "select_n" and isinstance(operands[0], Verdict):
            cases = operands[1:]
            if any(map(self._is_never, cases)) and not any(isinstance(x, Soft) for x in cases):
                return evaluate(eqn, *plain)
        outs = evaluate(eqn, *(x.hard if isinstance(x, Soft) else x for x in plain))
        if not any(map(is_inexact, outs)):
            return [Verdict(x) for x in outs]
        raise self._no_extension(eqn)

    def _is_never(self, x: Any) -> bool:
        if isinstance(x, Soft | Verdict):
            return False
        if any(x is y for y in self.never):
            return True
        return is_concrete(x) and is_inexact(x) and bool(np.all(np.asarray(x) == -np.inf))

    def _call(self, eqn: Equation, operands: list[Any]) -> list[Any]:
        outer, self.dense = self.dense, self.dense or is_density(eqn)
        (body,) = subjaxprs(eqn)
        with inlined(eqn):
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
            if not (jnp.issubdtype(to, jnp.inexact) or jnp.issubdtype(to, jnp.signedinteger)):
                return None  # there is no -1 in between unsigned integers
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
        outs = eqn.primitive.bind(*cast, **params)
        return list(outs) if eqn.primitive.multiple_results else [outs]

    def _no_extension(self, eqn: Equation) -> EstimandError:
        assert self.site is not None
        return error(
            self.site.where,
            f"{_strategy(self.site)} evaluates the program between the values of the site, and "
            "this operation has no continuous extension",
            expected="a value that is cast to a floating number and calculated with",
            got=f"{eqn.primitive.name} ({self.line}) of the integer",
            remedy="write x.astype(float) and arithmetic instead of comparing or indexing, or use "
            "another strategy",
        )

    def _wraps(self, eqn: Equation, dtype: Any) -> EstimandError:
        assert self.site is not None
        return error(
            self.site.where,
            f"{_strategy(self.site)} calculates with the value in floating numbers, and integers "
            f"of type {dtype} wrap around: the two may differ",
            expected="integers of 32 bits or more",
            got=f"{dtype} from {eqn.primitive.name} ({self.line})",
            remedy="write x.astype(float) instead, or use another strategy",
        )


def _is_narrow(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.integer) and jnp.iinfo(x.dtype).bits < 32


def _strategy(site: Site) -> Any:
    return site.via if site.via is not None else "its strategy"
