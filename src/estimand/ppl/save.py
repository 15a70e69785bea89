"""Any pytree in one file, bit for bit.

The file is an `.npz`: an array per leaf, named by the path of the leaf, and a JSON header that
says what each leaf was. It holds data and no code, so loading one runs none; what the tree is made
of comes from a tree like it.
"""

import json
import os
import zipfile
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from estimand.errors import EstimandError, error, source_line

HEADER, VERSION = "estimand", 1
PLAIN = (bool, int, float, complex, str)
ARRAYS = (jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic)


def save(path: str | os.PathLike, tree: PyTree) -> None:
    """Write a pytree to one file, which `load` reads.

    Leaves may be arrays of JAX or NumPy of any dtype, typed random keys, Python's numbers and
    strings, and None. Functions and classes are code: of these the file has only the name.
    The file appears whole or not at all.

    Example:
        >>> import estimand as em, jax.numpy as jnp, os, tempfile
        >>> file = os.path.join(tempfile.mkdtemp(), "params.npz")
        >>> em.save(file, {"w": jnp.arange(3.0), "n": 7})
        >>> em.load(file, like={"w": jnp.zeros(3), "n": 0})
        {'n': 7, 'w': Array([0., 1., 2.], dtype=float32)}
    """
    leaves = _leaves(tree)
    for name, leaf in leaves.items():
        if leaf is ...:
            raise _unsavable(name, leaf)
    header = {name: _entry(name, leaf) for name, leaf in leaves.items()}
    arrays = {name: _content(leaf) for name, leaf in leaves.items() if isinstance(leaf, ARRAYS)}
    arrays[HEADER] = np.array(json.dumps({"version": VERSION, "leaves": header}))
    partial = f"{os.fspath(path)}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def load(path: str | os.PathLike, like: PyTree) -> PyTree:
    """The pytree that `save` wrote, given one of the same structure.

    Args:
        path: of the file.
        like: a tree with the structure of the saved one, and leaves of the same kinds, shapes
            and dtypes; their values are not looked at. A leaf `...` takes whatever the file has
            there. Functions and classes are taken from it.

    Raises:
        EstimandError: structure, shapes or dtypes differ; the error lists every leaf that does.

    Example:
        A run continues from its file; `steps=0` makes a `Fit` with nothing but structure.

        >>> import estimand as em, jax, numpyro.distributions as dist, optax, os, tempfile
        >>> @em.expectation
        ... def square(x):
        ...     return em.draw(dist.Normal(x, 1.0)) ** 2
        >>> def run(steps, **more):
        ...     return em.minimize(square, 3.0, optax.sgd(0.1), key=jax.random.key(0),
        ...                        steps=steps, progress=False, **more)
        >>> file = os.path.join(tempfile.mkdtemp(), "fit.npz")
        >>> em.save(file, run(10))
        >>> fit = em.load(file, like=run(0)._replace(history=...))
        >>> bool(run(10, resume=fit).params == run(20).params)
        True
    """
    with open(path, "rb") as stream:
        file = _arrays(stream, os.fspath(path))
        saved = json.loads(str(file[HEADER]))["leaves"]
        wanted = _leaves(like)
        _compare(os.fspath(path), saved, wanted)
        leaves = [
            _decode(saved[name], file[name] if name in file else None, leaf)
            for name, leaf in wanted.items()
        ]
    return jax.tree.unflatten(jax.tree.structure(like, is_leaf=_is_none), leaves)


def _arrays(stream: BinaryIO, path: str) -> Any:
    """The arrays of a file that `save` wrote, by name."""
    try:
        file = np.load(stream, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as problem:
        file, got = None, str(problem)
    else:
        got = ", ".join(getattr(file, "files", ["a single array"])) or "no arrays"
    if HEADER in getattr(file, "files", []):
        return file
    raise error(
        f"{path} ({source_line()})",
        "this file was not written by em.save",
        expected=f"an entry {HEADER!r} among its arrays",
        got=got,
        remedy="read it with what wrote it, such as numpy.load",
    )


def _is_none(x: Any) -> bool:
    return x is None


def _leaves(tree: PyTree) -> dict[str, Any]:
    """Leaves by path, None included, so that a leaf that is missing is seen."""
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none)[0]
    named = {jax.tree_util.keystr(path) or "the tree": leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise error(
            f"the tree ({source_line()})",
            "leaves are stored by their paths, and two have the same",
            expected="keys that are printed differently",
            got=f"{len(leaves)} leaves under {len(named)} paths",
            remedy="save jax.tree.leaves of the tree",
        )
    return named


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, ARRAYS) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(name: str, leaf: Any) -> str:
    """What must agree between a leaf that was saved and one that is wanted."""
    if leaf is None or leaf is ...:
        return "None" if leaf is None else "..."
    if type(leaf) in PLAIN:
        return type(leaf).__name__
    if isinstance(leaf, ARRAYS) and leaf.dtype != object and not np.ma.isMaskedArray(leaf):
        return f"{leaf.dtype}{list(leaf.shape)}"
    if callable(leaf):
        return f"code {getattr(leaf, '__qualname__', type(leaf).__qualname__)}"
    raise _unsavable(name, leaf)


def _unsavable(name: str, leaf: Any) -> EstimandError:
    return error(
        f"{name} ({source_line()})",
        "a leaf of this type cannot be saved",
        expected="an array, a random key, a number, a string, None, or a function",
        got=f"{type(leaf).__name__} {leaf!r}",
        remedy="make it an array, or take it out of the tree",
    )


def _entry(name: str, leaf: Any) -> dict[str, Any]:
    """What the header says of a leaf: with its array, if it has one, all there is to know."""
    entry: dict[str, Any] = {"is": _describe(name, leaf)}
    if type(leaf) is complex:
        entry["value"] = [leaf.real, leaf.imag]
    elif type(leaf) in PLAIN:
        entry["value"] = leaf
    elif _is_key(leaf):
        entry["impl"] = str(jax.random.key_impl(leaf))
    elif isinstance(leaf, ARRAYS) and _is_extension(leaf.dtype):
        entry["dtype"], entry["shape"] = str(leaf.dtype), list(leaf.shape)
    return entry


def _content(leaf: Any) -> np.ndarray:
    """The array of a leaf, or its bytes where NumPy's format does not know the dtype."""
    array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    return np.frombuffer(array.tobytes(), np.uint8) if _is_extension(array.dtype) else array


def _is_extension(dtype: np.dtype) -> bool:
    """Whether a dtype is one that ml_dtypes adds to NumPy, such as bfloat16."""
    return dtype.isbuiltin == 2


def _decode(entry: dict[str, Any], content: np.ndarray | None, like: Any) -> Any:
    if content is None:
        if entry["is"].startswith("code "):
            return like
        if entry["is"] == "None":
            return None
        return complex(*entry["value"]) if entry["is"] == "complex" else entry["value"]
    if "impl" in entry:
        return jax.random.wrap_key_data(jnp.asarray(content), impl=entry["impl"])
    if "dtype" in entry:
        content = content.view(jnp.dtype(entry["dtype"])).reshape(entry["shape"])
    if isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        return jnp.asarray(content)
    return content[()] if isinstance(like, np.generic) else content


def _compare(path: str, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a file whose leaves are not those wanted, and name every one that is not."""
    found = {name: entry["is"] for name, entry in saved.items()}
    asked = {name: _describe(name, leaf) for name, leaf in wanted.items()}
    different = [
        name
        for name in asked | found
        if asked.get(name) != found.get(name)
        and (asked.get(name) != "..." or found.get(name, "code ").startswith("code "))
    ]
    if different:
        raise error(
            f"{path} ({source_line()})",
            "the tree in this file is another than the one wanted",
            expected=", ".join(f"{n}: {asked.get(n, 'nothing')}" for n in different),
            got=", ".join(f"{n}: {found.get(n, 'nothing')}" for n in different),
            remedy="pass a `like` of the structure that was saved; `...` stands for any leaf",
        )
