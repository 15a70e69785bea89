"""Choices: nested dictionaries of values, and whether they fit a generative function."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions.constraints import Constraint, is_dependent

from estimand.errors import EstimandError, error, source_line
from estimand.transforms.jaxprs import is_concrete
from estimand.transforms.survey import Found, parents


def flatten(*choices: dict[str, Any], where: str) -> dict[str, Any]:
    """Nested choices, taken together, as a flat dict from `a/b` addresses to values."""
    flat: dict[str, Any] = {}
    groups: dict[str, str] = {}  # every group that an address is in, and one such address
    for group in choices:
        for address, value in _walk(group, "", where):
            other = next((name for name in (address, *parents(address)) if name in flat), None)
            other = groups.get(address, other)
            if other is not None:
                raise error(
                    where,
                    f"two of the choices have a value at {min(address, other, key=len)!r}",
                    expected="each address once, and none inside another",
                    got=f"{other!r} and {address!r}" if other != address else f"{address!r} twice",
                    remedy="drop one: a value that is observed must not be proposed too",
                )
            flat[address] = value
            groups.update(dict.fromkeys(parents(address), address))
    return flat


def _walk(group: Any, prefix: str, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(group, dict):
        raise error(
            where,
            "choices are nested dictionaries",
            expected="dictionaries from addresses to values or further dictionaries",
            got=type(group).__name__,
            remedy="pass trace.choices, or a dict such as {'z': 5.0}",
        )
    for name, value in group.items():
        address = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _walk(value, f"{address}/", where)
        else:
            yield address, value


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """The nested form of a flat dict of addresses."""
    nested: dict[str, Any] = {}
    for address, value in flat.items():
        *groups, name = address.split("/")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = value
    return nested


def check_choices(
    choices: dict[str, Any], found: Sequence[Found], owner: str, every: bool = True
) -> dict[str, Any]:
    """The choices as arrays of the sites' dtypes; every misfit is listed in one error.

    Unless `every` choice is to be given, those that are not are left out.
    """
    method = "assess" if every else "normalize"
    choices = flatten(choices, where=f"{owner}.{method} ({source_line()})")
    sites = {item.address: item for item in found if item.site is not None}
    misfits = [_unknown(name, owner) for name in choices if name not in sites]
    values: dict[str, Any] = {}
    for name, site in sites.items():
        if name not in choices and not every:
            continue
        if name not in choices:
            misfits.append(
                f"{_at(site)}: missing\n      expected: a value of {kind(site)}\n"
                "      got:      nothing"
            )
            continue
        value, misfit = _fit(choices[name], site)
        values[name] = value
        if misfit:
            misfits.append(f"{_at(site)}: {misfit}")
    if misfits:
        known = ", ".join(sorted(sites)) or "none"
        listed = "\n  - ".join(misfits)
        raise EstimandError(
            f"the choices do not fit {owner} ({source_line()}):\n  - {listed}\n  remedy:   "
            f"give {'every choice' if every else 'choices'} of {owner} once (its addresses: "
            f"{known}) in the shape and dtype of its site; nothing is broadcast or cast between "
            "integers and floats"
        )
    return values


def _at(site: Found) -> str:
    return f"{site.address!r} ({site.source})"


def kind(site: Found) -> str:
    """`float32[3]`."""
    return f"{np.dtype(site.dtype).name}{list(site.shape)}"


def _unknown(name: str, owner: str) -> str:
    return f"{name!r}: unknown\n      expected: an address of {owner}\n      got:      a value"


def _fit(value: Any, site: Found) -> tuple[Any, str]:
    """The value as an array, and what is wrong with it."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError):
        got = type(value).__name__
        return value, f"not an array\n      expected: {kind(site)}\n      got:      {got}"
    scalar = isinstance(value, bool | int | float)
    cast = scalar and jnp.issubdtype(site.dtype, jnp.inexact)
    widen = jnp.issubdtype(array.dtype, jnp.bool_) and jnp.issubdtype(site.dtype, jnp.integer)
    same = any(
        jnp.issubdtype(array.dtype, kind) and jnp.issubdtype(site.dtype, kind)
        for kind in (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    )
    got = f"{array.dtype.name}{list(array.shape)}"
    if not (same or cast or widen):
        return array, f"wrong dtype\n      expected: {kind(site)}\n      got:      {got}"
    if array.shape != site.shape:
        return array, f"wrong shape\n      expected: {kind(site)}\n      got:      {got}"
    if same and not scalar and not jnp.issubdtype(site.dtype, jnp.integer):
        return array, _support_misfit(array, site)
    array = array.astype(site.dtype)
    return array, _support_misfit(array, site)


def _support_misfit(array: Any, site: Found) -> str:
    """What a concrete value says about its support, where that is static."""
    assert site.site is not None
    support = inspect.getattr_static(site.site.structure.cls, "support")
    fixed = isinstance(support, Constraint) and not is_dependent(support)
    if not is_concrete(array) or not fixed or site.branches:  # an untaken choice is zeros
        return ""
    inside = np.asarray(support(np.asarray(array)))
    if np.all(inside | _any_nan(array, inside.shape)):
        return ""
    return (
        f"outside of the support\n      expected: {support!r}\n"
        f"      got:      {np.asarray(array)!r}"
    )


def _any_nan(array: Any, shape: tuple[int, ...]) -> np.ndarray:
    """NaN data are reported by the log density, not as a support error."""
    data = np.asarray(array)
    if not np.issubdtype(data.dtype, np.floating):
        return np.zeros(shape, bool)
    nan = np.isnan(data)
    return nan.any(axis=tuple(range(len(shape), nan.ndim)))
