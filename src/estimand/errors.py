"""The one exception of the library, and the one shape of its messages."""

import contextlib
import functools
import importlib.util
import inspect
import math
import numbers
import os
import sys
from typing import Any


class EstimandError(ValueError):
    """A program, or a use of one, for which no right answer exists.

    The message always says where (site and source line), what was expected, what was
    got, and what to do about it.
    """


def error(where: str, problem: str, *, expected: str, got: str, remedy: str) -> EstimandError:
    """The exception, not raised: callers `raise error(...)` so that the raise is visible."""
    return EstimandError(
        f"{where}: {problem}\n  expected: {expected}\n  got:      {got}\n  remedy:   {remedy}"
    )


def source_line() -> str:
    """`file.py:12` of the nearest frame that belongs neither to estimand nor to JAX."""
    frame = sys._getframe(1)
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "unknown source"


def definition(fun: Any) -> str:
    """`file.py:12` of the definition of a function, as far as it has one."""
    code = getattr(inspect.unwrap(fun), "__code__", None)
    if code is None:
        return "unknown source"
    return f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}"


def is_count(x: Any) -> bool:
    """Whether x is a whole number, of Python's or of NumPy's."""
    return isinstance(x, numbers.Integral) and not isinstance(x, bool)


def is_number(x: Any) -> bool:
    """Whether x is a finite number of Python's."""
    return isinstance(x, float | int) and not isinstance(x, bool) and math.isfinite(x)


def is_users(file: str) -> bool:
    """Whether a source file is neither estimand's nor a library's that it calls through."""
    return not file.startswith(_LIBRARIES) and file != "<string>"  # where dataclasses are made


def is_jax(file: str) -> bool:
    """Whether a source file is JAX's own."""
    return file.startswith(_JAX)


def _folder(name: str) -> str:
    spec = importlib.util.find_spec(name)
    return os.path.dirname(spec.origin) + os.sep if spec and spec.origin else os.devnull


_JAX = _folder("jax")
_LIBRARIES = (
    os.path.dirname(os.path.abspath(__file__)) + os.sep,
    _JAX,
    *map(_folder, ("numpyro", "jaxtyping", "equinox", "beartype")),
    contextlib.__file__,
    functools.__file__,
)
