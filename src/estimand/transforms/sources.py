"""The user's source line that an equation comes from."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import jax

from estimand.errors import is_users
from estimand.transforms.jaxprs import DERIVATIVE, Equation, is_derivative

LINE = "em@"  # prefix of a named scope that remembers a source line


def source_of(eqn: Equation) -> str:
    """`file.py:12` of the user's line that made an equation, as far as JAX recorded it."""
    recorded = eqn.source_info.traceback
    for frame in recorded.frames if recorded else ():
        if is_users(frame.file_name):
            return f"{os.path.basename(frame.file_name)}:{frame.line_num}"
    around = [getattr(entry, "name", "") for entry in eqn.source_info.name_stack.stack]
    return next((n.removeprefix(LINE) for n in around if n.startswith(LINE)), "unknown source")


def at_source(eqn: Equation) -> AbstractContextManager:
    """While an equation is run in another form: its line."""
    return jax.named_scope(LINE + source_of(eqn))


@contextmanager
def inlined(eqn: Equation) -> Iterator[None]:
    """While its body is inlined: an equation's line, and whether it is a derivative's."""
    with ExitStack() as scopes:
        scopes.enter_context(at_source(eqn))
        if is_derivative(eqn):
            scopes.enter_context(jax.named_scope(DERIVATIVE))
        yield
