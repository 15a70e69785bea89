"""The two primitives of the language.

`sample_p` is a random value. Its operands are the leaves of a distribution, so whatever
produces them (a network, another site, a loop's carry) is ordinary JAX. Everything else
about the site is one static parameter, a `Site`. Batched by `jax.vmap`, a site gains a lane
axis and every lane draws independently, also where no leaf is batched; the distribution
itself never sees a lane axis.

`mark_p` is the identity with a meaning that one of the interpreters reads: see `Mark`.

Neither can run by itself: a site reached with no interpreter around it is an error that
says which interpreter is missing.
"""

from collections.abc import Hashable
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


@dataclass(frozen=True)
class Site:
    """What is static about a random value.

    `lanes` are the sizes of the axes that `vmap` added, outermost first, and
    `mapped[i][j]` says whether leaf j has lane axis i among its leading axes. `name` is the
    user's (None for `draw`); `label` is set by `simulate`, once the address is known.
    `selected` says that it was in a branch that is one no longer: see `_cond_batching`.
    `relaxed` says that its value is floating, between the integers that are its support.
    """

    name: str | None
    structure: Structure
    via: Any
    source: str
    label: str | None = None
    selected: bool = False
    relaxed: bool = False
    lanes: tuple[int, ...] = ()
    mapped: tuple[tuple[bool, ...], ...] = ()

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

    def in_axes(self) -> list[list[int | None]]:
        """For each lane axis, the `in_axes` of the leaves."""
        return [[0 if flag else None for flag in flags] for flags in self.mapped]


@dataclass(frozen=True)
class Mark:
    """The meaning of a `mark_p`.

    kind "factor": a log weight, part of a generative function's density; `selected` as of a site.
    kind "detach": no score, no weight derivative, no pathwise derivative through here.
    kind "continuous": the user vouches that no discontinuity matters here.
    kind "expectation": the value of an inner expectation; only linear uses keep its meaning.
    kind "scored": a draw about to be scored by its own site, named for messages.
    kind "observed": a given value about to be scored; `info` is the `Site` that scores it.
    """

    kind: str
    name: str | None = None
    source: str = ""
    info: Hashable = None
    selected: bool = False


sample_p = Primitive("sample")
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
    """One more lane axis, in front of the others."""
    leaves = [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(leaves, dims, strict=True)]
    mapped = tuple(d is not None for d in dims)
    site = replace(site, lanes=(axis_data.size, *site.lanes), mapped=(mapped, *site.mapped))
    return sample_p.bind(*leaves, site=site), 0


def _no_interpreter(site: Site) -> EstimandError:
    return error(
        site.where,
        "a random value was reached with no interpreter around it",
        expected="em.seed (to run the program), gf.simulate or gf.assess inside such a run, or "
        "em.expectation (to estimate and differentiate its mean)",
        got=f"a plain call, jit or grad of a function that samples from {site.distribution}",
        remedy="em.seed(f)(key, *args) runs any program; @em.expectation makes it an objective",
    )


@sample_p.def_impl
def _sample_impl(*leaves: Any, site: Site) -> Any:
    raise _no_interpreter(site)


def _sample_lowering(ctx: Any, *leaves: Any, site: Site) -> Any:
    raise _no_interpreter(site)


def _sample_jvp(primals: Any, tangents: Any, *, site: Site) -> Any:
    raise _no_interpreter(site)


batching.fancy_primitive_batchers[sample_p] = _sample_batching
ad.primitive_jvps[sample_p] = _sample_jvp
mlir.register_lowering(sample_p, _sample_lowering)


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
    if eqn.primitive is sample_p:
        return eqn.replace(params={"site": replace(eqn.params["site"], selected=True)})
    if eqn.primitive is mark_p and eqn.params["mark"].kind == "factor":
        return eqn.replace(params={"mark": replace(eqn.params["mark"], selected=True)})
    return replace_jaxprs(eqn, _selected)


_batch_cond = batching.fancy_primitive_batchers[cond_p]
batching.fancy_primitive_batchers[cond_p] = _cond_batching
