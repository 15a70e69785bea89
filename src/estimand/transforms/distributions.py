"""NumPyro distributions as (static structure, array leaves).

NumPyro registers its distributions as pytrees, but in an order of fields that comes from a
`set` and so changes between processes. Here the fields are sorted by name, nested
distributions included, and whatever is not an array must compare equal to itself, because
it becomes a static parameter of an equation. Concrete integers stay static too: they bound
supports (`Binomial(total_count)`), and enumerating a support needs its size.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import (
    Beta,
    BetaBinomial,
    CategoricalLogits,
    CategoricalProbs,
    DirichletMultinomial,
    Distribution,
    ExpandedDistribution,
    GammaPoisson,
    MultinomialLogits,
    MultinomialProbs,
)
from numpyro.distributions.transforms import Transform

from estimand.errors import EstimandError, error
from estimand.transforms.jaxprs import is_concrete
from estimand.transforms.repairs import REPAIRED


@dataclass(frozen=True)
class Frozen:
    """A static field: compared by type and value, hashed by type (values may not hash)."""

    value: Any

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frozen) or type(self.value) is not type(other.value):
            return False
        if isinstance(self.value, np.ndarray):
            same = self.value.dtype == other.value.dtype
            return same and np.array_equal(self.value, other.value)
        return bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(type(self.value))


@dataclass(frozen=True)
class Structure:
    """All of a distribution but its array leaves."""

    cls: type[Distribution]
    fields: tuple[tuple[str, jax.tree_util.PyTreeDef, tuple[Any, ...]], ...]
    aux: tuple[tuple[str, Frozen], ...]

    def build(self, leaves: list[Any], validated: bool = False) -> Distribution:
        """The distribution with these leaves; consumes them from the front of the list.

        NumPyro's unflattening forgets `validate_args`, with which a value outside of the support
        has log density -inf; `validated` sets it.
        """
        fields = {}
        for name, treedef, slots in self.fields:
            fields[name] = treedef.unflatten([_fill(slot, leaves, validated) for slot in slots])
        aux = {name: frozen.value for name, frozen in self.aux}
        children = tuple(fields[name] for name in self.cls.gather_pytree_data_fields())
        statics = tuple(aux[name] for name in self.cls.gather_pytree_aux_fields())
        dist = REPAIRED.get(self.cls, self.cls).tree_unflatten(statics, children)
        if validated:
            dist._validate_args = True
        return dist

    def placeholder(self, avals: Any) -> Distribution:
        """An instance of these shapes, for what does not depend on parameters' values."""
        return self.build([np.ones(a.shape, a.dtype) for a in avals])

    def slots(self) -> list[tuple[str, Any]]:
        """(field, slot) of every leaf in order; a nested one is `outer.inner`."""
        found = []
        for name, _, slots in self.fields:
            for slot in slots:
                if isinstance(slot, Structure):
                    found += [(f"{name}.{inner}", s) for inner, s in slot.slots()]
                elif slot is None:
                    found.append((name, slot))
        return found


def _fill(slot: Any, leaves: list[Any], validated: bool) -> Any:
    if isinstance(slot, Structure):
        return slot.build(leaves, validated)
    return leaves.pop(0) if slot is None else slot.value


def parts(dist: Distribution) -> Iterator[Distribution]:
    """A distribution and those that it is made of, but for those that it hides."""
    yield dist
    if isinstance(dist, Beta | BetaBinomial | DirichletMultinomial | GammaPoisson):
        return
    children = jax.tree.leaves(dist.tree_flatten()[0], is_leaf=_is_distribution)
    for child in filter(_is_distribution, children):
        yield from parts(child)


def unexpanded(dist: Any) -> Any:
    """What `expand`, and `sample_shape=`, were called on."""
    while isinstance(dist, ExpandedDistribution):
        dist = dist.base_dist
    return dist


def probabilities(dist: Any, lanes: tuple[int, ...] | None = None) -> Any:
    """`dist.probs` of all its lanes, over which NumPyro broadcasts it: [*lanes] or [*lanes, K]."""
    several = CategoricalProbs | CategoricalLogits | MultinomialProbs | MultinomialLogits
    each = dist.probs.shape[-1:] if isinstance(dist, several) else ()
    return jnp.broadcast_to(dist.probs, (*(dist.batch_shape if lanes is None else lanes), *each))


def _is_distribution(x: Any) -> bool:
    return isinstance(x, Distribution)


def split(dist: Distribution, where: str) -> tuple[Structure, list[Any]]:
    """The structure of a distribution and its array leaves, in the order of its fields.

    A slot of the structure is None for an array leaf, a `Structure` for a nested
    distribution and `Frozen` for a concrete integer.
    """
    if not isinstance(dist, Distribution):
        raise error(
            where,
            "a site samples from a distribution",
            expected="an instance of numpyro.distributions.Distribution",
            got=f"the class {dist.__name__}" if isinstance(dist, type) else type(dist).__name__,
            remedy="pass the distribution itself, e.g. numpyro.distributions.Normal(0.0, 1.0)",
        )
    cls, leaves = type(dist), []
    children, statics = dist.tree_flatten()
    fields = []
    names = cls.gather_pytree_data_fields()
    for name, child in sorted(zip(names, children, strict=True), key=lambda pair: pair[0]):
        _refuse_closures(child, name, dist, where)
        flat, treedef = jax.tree.flatten(child, is_leaf=_is_distribution)
        slots: list[Any] = []
        for leaf in flat:
            if isinstance(leaf, Distribution):
                inner, inner_leaves = split(leaf, where)
                slots.append(inner)
                leaves += inner_leaves
            elif _is_static(leaf):
                slots.append(Frozen(leaf if isinstance(leaf, int) else np.asarray(leaf)))
            else:
                slots.append(None)
                leaves.append(leaf)
        fields.append((name, treedef, tuple(slots)))
    aux = []
    names = cls.gather_pytree_aux_fields()
    for name, value in sorted(zip(names, statics, strict=True), key=lambda pair: pair[0]):
        aux.append((name, Frozen(_checked(value, name, dist, where))))
    return Structure(cls, tuple(fields), tuple(aux)), leaves


def _is_static(leaf: Any) -> bool:
    if isinstance(leaf, bool | int):
        return True
    array = isinstance(leaf, np.ndarray | np.generic | jax.Array)
    if not array or not is_concrete(leaf):
        return False
    return np.issubdtype(leaf.dtype, np.integer) or leaf.dtype == np.bool_


def _checked(value: Any, name: str, dist: Distribution, where: str) -> Any:
    """A static field, which must be equal to itself."""
    _refuse_closures(value, name, dist, where)
    try:
        same = bool(value == value)
    except Exception:  # an array among the statics has no single truth value
        same = False
    if same:
        return value
    raise _cannot_be_static(value, name, dist, where)


def _refuse_closures(value: Any, name: str, dist: Distribution, where: str) -> None:
    """A closure, also one inside a transform, may hide traced arrays."""
    if isinstance(value, tuple | list):
        inner = list(value)
    else:
        inner = list(vars(value).values()) if isinstance(value, Transform) else []
    if getattr(value, "__closure__", None):
        raise _cannot_be_static(value, name, dist, where)
    for item in inner:
        _refuse_closures(item, name, dist, where)


def _cannot_be_static(value: Any, name: str, dist: Distribution, where: str) -> EstimandError:
    return error(
        where,
        f"{type(dist).__name__} cannot be a site: its field {name!r} is a closure or an array "
        "that JAX would have to treat as static",
        expected="a distribution whose arrays are all among its parameters",
        got=f"{name} = {value!r}",
        remedy="write the same density with distributions that take arrays, or add it with "
        "em.factor",
    )


def over_lanes(fun: Callable, lanes: tuple[int, ...], in_axes: list[list[int | None]]) -> Callable:
    """`fun` mapped over lane axes, outermost first; `in_axes[i]` belongs to lane axis i."""
    fun = promoting(fun)
    for size, axes in reversed(list(zip(lanes, in_axes, strict=True))):
        fun = jax.vmap(fun, in_axes=tuple(axes), axis_size=size)
    return fun


def promoting(fun: Callable) -> Callable:
    """`fun` under JAX's standard dtype promotion: NumPyro multiplies integers with floats."""

    @functools.wraps(fun)
    def call(*args: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return fun(*args)

    return call


@functools.lru_cache(maxsize=4096)
def value_aval(structure: Structure, avals: tuple[Any, ...]) -> jax.ShapeDtypeStruct:
    """Shape and dtype of one draw, from the lane-free shapes of the leaves."""

    def draw(leaves: list[Any]) -> Any:
        dist = structure.build(list(leaves))
        try:
            return dist.sample(jax.random.key(0))
        except (NotImplementedError, ImportError):  # it can be assessed, not drawn
            return jnp.zeros(dist.shape())

    out = jax.eval_shape(promoting(draw), [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals])
    return jax.ShapeDtypeStruct(out.shape, out.dtype)
