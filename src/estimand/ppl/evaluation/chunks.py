"""Many independent computations in bounded memory, and the program that they are about."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from estimand.errors import error
from estimand.ppl.choices import check_choices, flatten
from estimand.ppl.gen import GenerativeFunction
from estimand.ppl.marginal import method_of, proposal_of, staged_program
from estimand.ppl.target import Target


def in_chunks(
    fun: Callable[[Any, Any], Any], key: Any, count: int, chunk: int | None, xs: Any = None
) -> Any:
    """`fun(key_i, x_i)` for each i, `chunk` of them at a time.

    A key is a function of i alone, and so are the results, whatever the chunk.
    """

    def one(row: tuple[Any, Any]) -> Any:
        return fun(jax.random.fold_in(key, row[0]), row[1])

    rows = jnp.arange(count), xs
    if chunk is None or chunk >= count:
        return jax.vmap(one)(rows)
    return jax.lax.map(one, rows, batch_size=int(chunk))


def conditioned(
    model: Any, observed: dict[str, Any], args: tuple[Any, ...], via: Any, where: str
) -> tuple[Any, Target]:
    """The method, and the model of which these choices are given."""
    check_model(model, where)
    method = method_of(via, where)
    program, operands = staged_program(model.fun, model.name, args, {})
    observed = flatten(observed, where=where)
    given = check_choices(observed, program.found, model.name, every=False)
    proposal, more = proposal_of(method, program, given, where)
    return method, Target(model.name, program, operands, given, proposal, more)


def check_model(model: Any, where: str) -> None:
    if not isinstance(model, GenerativeFunction):
        raise error(
            where,
            "the first argument is the model",
            expected="a generative function, made by em.gen",
            got=type(model).__name__,
            remedy="put @em.gen on the function, and pass its arguments after what is observed",
        )
