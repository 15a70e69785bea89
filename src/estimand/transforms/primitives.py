"""The three primitives of the language.

`sample_p` is a random value. Its operands are the leaves of a distribution, so whatever
produces them (a network, another site, a loop's carry) is ordinary JAX. Everything else
about the site is one static parameter, a `Site`. Batched by `jax.vmap`, a site gains a lane
axis and every lane draws independently, also where no leaf is batched; the distribution
itself never sees a lane axis.

`estimated_p` is the values of a generative function whose density is known by an estimate only
(a marginal, a posterior): a site whose law is a program, batched in the same way. Whoever
interprets it runs that program in its place.

`mark_p` is the identity with a meaning that one of the interpreters reads: see `Mark`.

None can run by itself: a site reached with no interpreter around it is an error that
says which interpreter is missing.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.extend.core.primitives import cond_p
from jax.interpreters import ad, batching, mlir

from estimand.errors import EstimandError, error, source_line
from estimand.transforms.distributions import Structure, split, value_aval
from estimand.transforms.jaxprs import Equation, Jaxpr, replace_jaxprs, with_equations


@dataclass(frozen=True, kw_only=True, eq=False)
class Laned:
    """What `vmap` does to a random value.

    `lanes` are the sizes of the axes that it added, outermost first, and `mapped[i][j]` says
    whether operand j has lane axis i among its leading axes. `selected` says that it was in a
    branch that is one no longer: see `_cond_batching`.
    """

    selected: bool = False
    lanes: tuple[int, ...] = ()
    mapped: tuple[tuple[bool, ...], ...] = ()

    def in_axes(self) -> list[list[int | None]]:
        """For each lane axis, the `in_axes` of the operands."""
        return [[0 if flag else None for flag in flags] for flags in self.mapped]

    def batched(self, size: int, mapped: tuple[bool, ...]) -> Any:
        """With one more lane axis, in front of the others."""
        return replace(self, lanes=(size, *self.lanes), mapped=(mapped, *self.mapped))


@dataclass(frozen=True)
class Site(Laned):
    """What is static about a random value that has a distribution.

    `name` is the user's (None for `draw`); `label` is set by `simulate`, once the address is
    known. `relaxed` says that its value is floating, between the integers that are its support.
    """

    name: str | None
    structure: Structure
    via: Any
    source: str
    label: str | None = None
    relaxed: bool = False

    @property
    def where(self) -> str:
        name = self.label or self.name
        return f"site {name!r} ({self.source})" if name else f"anonymous draw ({self.source})"

    @property
    def distribution(self) -> str:
        return self.structure.cls.__name__

    def leaf_lanes(self, leaf: int) -> list[int]:
        """The lane axes that are the leading axes of a leaf."""
        return [i for i, flags in enumerate(self.mapped) if flags[leaf]]

    def bare(self, leaves: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes and dtypes of the leaves (arrays or avals) without lane axes."""
        return tuple(
            jax.ShapeDtypeStruct(jnp.shape(x)[len(self.leaf_lanes(i)) :], jnp.result_type(x))
            for i, x in enumerate(leaves)
        )


@dataclass(frozen=True, eq=False)
class Estimated(Laned):
    """What is static about the values of a program whose density is estimated.

    `draw(*operands)` are the values; `simulate(*operands)` are the values and an estimate w of
    their log density with E[exp(-w)] = 1 / density; `assess(operands, values)` is one of given
    values with E[exp(w)] = density. All are programs. `sites` are what was found of the values
    (`Found`), in their order. `estimator` names the estimate; None says that it is exact.
    """

    name: str
    source: str
    sites: tuple[Any, ...]
    draw: Callable[..., list[Any]]
    simulate: Callable[..., tuple[list[Any], Any]]
    assess: Callable[[list[Any], list[Any]], Any]
    estimator: str | None

    @property
    def where(self) -> str:
        return f"{self.name} ({self.source})"

    def over_lanes(self, fun: Callable, *more: Any) -> Callable:
        """`fun(*operands, more)` in every lane; `more` has all of them leading."""
        for size, axes in reversed(list(zip(self.lanes, self.in_axes(), strict=True))):
            fun = jax.vmap(fun, in_axes=(*axes, *(0 for _ in more)), axis_size=size)
        return fun


@dataclass(frozen=True)
class Mark:
    """The meaning of a `mark_p`.

    kind "factor": a log weight, part of a generative function's density; `selected` as of a site.
    kind "detach": no score, no weight derivative, no pathwise derivative through here.
    kind "continuous": the user vouches that no discontinuity matters here.
    kind "expectation": the value of an inner expectation; only linear uses keep its meaning.
    kind "scored": a draw about to be scored by its own site, named for messages.
    kind "observed": a given value about to be scored; `info` is the `Site` that scores it.
    kind "estimate": a log density that is an estimate; `info` says of what was assessed or
        simulated, and how.
    """

    kind: str
    name: str | None = None
    source: str = ""
    info: Hashable = None
    selected: bool = False


sample_p = Primitive("sample")
estimated_p = Primitive("estimated")
estimated_p.multiple_results = True
RANDOM = (sample_p, estimated_p)
mark_p = Primitive("mark")


def bind_site(
    dist: Any, *, name: str | None, via: Any, label: str | None = None, source: str | None = None
) -> jax.Array:
    """A new site in the program being traced."""
    source = source or source_line()
    where = f"site {name!r} ({source})" if name else f"anonymous draw ({source})"
    structure, leaves = split(dist, where)
    site = Site(name, structure, via, source, label)
    return sample_p.bind(*leaves, site=site)


def mark(x: Any, kind: str, name: str | None = None, info: Hashable = None) -> jax.Array:
    return mark_p.bind(jnp.asarray(x), mark=Mark(kind, name, source_line(), info))


@sample_p.def_abstract_eval
def _sample_aval(*leaves: Any, site: Site) -> ShapedArray:
    try:
        out = value_aval(site.structure, site.bare(leaves))
    except (ValueError, TypeError) as problem:
        raise error(
            site.where,
            f"NumPyro cannot draw from this {site.distribution}",
            expected="a distribution whose parameters fit each other",
            got=str(problem).splitlines()[0],
            remedy="check the shapes of its parameters",
        ) from problem
    dtype = jnp.result_type(float) if site.relaxed else out.dtype
    return ShapedArray((*site.lanes, *out.shape), dtype)


def _sample_batching(axis_data: Any, leaves: Any, dims: Any, *, site: Site) -> tuple[Any, Any]:
    leaves = _in_front(leaves, dims)
    site = site.batched(axis_data.size, tuple(d is not None for d in dims))
    return sample_p.bind(*leaves, site=site), 0


def _in_front(operands: Any, dims: Any) -> list[Any]:
    pairs = zip(operands, dims, strict=True)
    return [x if d is None else jnp.moveaxis(x, d, 0) for x, d in pairs]


@estimated_p.def_abstract_eval
def _estimated_aval(*operands: Any, law: Estimated) -> list[ShapedArray]:
    return [ShapedArray((*law.lanes, *s.shape), s.dtype) for s in law.sites]


def _estimated_batching(axis_data: Any, operands: Any, dims: Any, *, law: Estimated) -> Any:
    operands = _in_front(operands, dims)
    law = law.batched(axis_data.size, tuple(d is not None for d in dims))
    return estimated_p.bind(*operands, law=law), [0] * len(law.sites)


def _no_interpreter(law: Site | Estimated) -> EstimandError:
    source = law.distribution if isinstance(law, Site) else law.name
    return error(
        law.where,
        "a random value was reached with no interpreter around it",
        expected="em.seed (to run the program), gf.simulate or gf.assess inside such a run, or "
        "em.expectation (to estimate and differentiate its mean)",
        got=f"a plain call, jit or grad of a function that samples from {source}",
        remedy="em.seed(f)(key, *args) runs any program; @em.expectation makes it an objective",
    )


def _cannot_run(*operands: Any, **param: Any) -> Any:
    raise _no_interpreter(*param.values())


def _cannot_be_lowered(ctx: Any, *operands: Any, **param: Any) -> Any:
    raise _no_interpreter(*param.values())


def _cannot_be_differentiated(primals: Any, tangents: Any, **param: Any) -> Any:
    raise _no_interpreter(*param.values())


batching.fancy_primitive_batchers[sample_p] = _sample_batching
batching.fancy_primitive_batchers[estimated_p] = _estimated_batching
for primitive in RANDOM:
    primitive.def_impl(_cannot_run)
    ad.primitive_jvps[primitive] = _cannot_be_differentiated
    mlir.register_lowering(primitive, _cannot_be_lowered)


@mark_p.def_abstract_eval
def _mark_aval(x: Any, *, mark: Mark) -> ShapedArray:
    return ShapedArray(x.shape, x.dtype)


@mark_p.def_impl
def _mark_impl(x: Any, *, mark: Mark) -> Any:
    return x


def _mark_batching(axis_data: Any, args: Any, dims: Any, *, mark: Mark) -> tuple[Any, Any]:
    """A factor counts once a lane, also where it is the same in every lane."""
    (x,), (dim,) = args, dims
    if mark.kind == "factor":
        lanes = (axis_data.size, *jnp.shape(x))
        x = jnp.broadcast_to(x, lanes) if dim is None else jnp.moveaxis(x, dim, 0)
        dim = 0
    return mark_p.bind(x, mark=mark), dim


def _mark_jvp(primals: Any, tangents: Any, *, mark: Mark) -> tuple[Any, Any]:
    return mark_p.bind(*primals, mark=mark), tangents[0]


batching.fancy_primitive_batchers[mark_p] = _mark_batching
ad.primitive_jvps[mark_p] = _mark_jvp
mlir.register_lowering(mark_p, lambda ctx, x, *, mark: [x])


def _cond_batching(axis_data: Any, args: Any, dims: Any, *, branches: Any, **params: Any) -> Any:
    """JAX's own rule; where it makes a `cond` a `select`, the branches' sites are told.

    It does so where the predicate is batched, before any interpreter sees the `cond`. The
    sites of all branches are then reached unconditionally, and nothing else would tell.
    """
    if dims[0] is not None:
        branches = tuple(map(_selected, branches))
    return _batch_cond(axis_data, args, dims, branches=branches, **params)


def _selected(jaxpr: Jaxpr) -> Jaxpr:
    """The jaxpr, its sites and factors marked as selected; itself if there are none."""
    eqns = [_selected_equation(eqn) for eqn in jaxpr.eqns]
    same = all(a is b for a, b in zip(eqns, jaxpr.eqns, strict=True))
    return jaxpr if same else with_equations(jaxpr, eqns)


def _selected_equation(eqn: Equation) -> Equation:
    if eqn.primitive in RANDOM:
        ((name, law),) = eqn.params.items()
        return eqn.replace(params={name: replace(law, selected=True)})
    if eqn.primitive is mark_p and eqn.params["mark"].kind == "factor":
        return eqn.replace(params={"mark": replace(eqn.params["mark"], selected=True)})
    return replace_jaxprs(eqn, _selected)


_batch_cond = batching.fancy_primitive_batchers[cond_p]
batching.fancy_primitive_batchers[cond_p] = _cond_batching
