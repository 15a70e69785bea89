"""Posterior samples, and what the model predicts from them.

With latent choices u_i from the posterior, or from a guide in its place, and all other choices y
drawn by the model given them,

    u_i ~ p(u | x),   y_i ~ p(y | u_i),   so that   y_i ~ p(y | x),

where the model draws y after u: none of the choices u, and no factor, may depend on what is drawn
anew, since that would then be drawn as if u had not been seen.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from estimand.errors import error, source_line
from estimand.ppl.arguments import check_arguments, positive_count
from estimand.ppl.choices import check_choices, flatten, unflatten
from estimand.ppl.evaluation.chunks import check_model, conditioned, in_chunks
from estimand.ppl.gen import GenerativeFunction
from estimand.ppl.language import seed
from estimand.ppl.marginal import staged_program
from estimand.ppl.target import Program, Target
from estimand.transforms.dependence import Dependence
from estimand.transforms.jaxprs import is_concrete, trace
from estimand.transforms.places import NOTHING, Dep, State
from estimand.transforms.seed import as_key


def posterior_samples(
    model: GenerativeFunction,
    observed: dict[str, Any],
    *args: Any,
    via: Any = None,
    key: Key[Array, ""],
    num_samples: int,
    chunk: int | None = None,
) -> dict[str, Any]:
    """Independent draws of `model.normalize(observed, via)`: of the choices not observed.

    With `Enumerate` they are from the posterior. With `Importance(proposal, n)` each draw is one
    of n particles of its own, chosen in proportion to weight, so that it takes n runs of the
    model, and has a law that tends to the posterior as n grows: its bias is O(1/n), however many
    samples there are, and n = 1 gives draws of the proposal. How near n particles come is to be
    seen from the effective sample size that `log_marginal_likelihood` finds for them: it should
    be many.

    Draws that are independent have the standard errors of independent draws. To draw all of them
    from one set of particles would take fewer runs, but they would repeat each other, and their
    spread would not show how few particles they are.

    Args:
        model: a generative function.
        observed: choices, as for `assess`; the rest of the addresses are sampled.
        args: of the model.
        via: as for `GenerativeFunction.normalize`.
        key: of all draws. That of draw i is the same whatever the chunk.
        num_samples: how many draws.
        chunk: how many draws at a time, each with all of its particles; None for all.

    Returns:
        Choices as in a `Trace`, with a leading axis of num_samples.

    Raises:
        EstimandError: what does not fit, and draws none of whose particles is possible. (Within
            `jit` nothing can be raised for those; they are then arbitrary particles.)

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def coin():
        ...     fair = em.sample("fair", dist.Bernoulli(0.5))
        ...     em.sample("heads", dist.Bernoulli(1.0 - 0.5 * fair.astype(float)))
        >>> draws = em.posterior_samples(
        ...     coin, {"heads": 1}, via=em.Enumerate(), key=jax.random.key(0), num_samples=3000)
        >>> draws["fair"].shape, round(float(draws["fair"].mean()), 1)  # 1/3
        ((3000,), 0.3)
    """
    where = f"em.posterior_samples ({source_line()})"
    check_arguments(None, chunk=chunk)
    count = positive_count(num_samples)
    method, target = conditioned(model, observed, args, via, where)

    def draws(key: Any, target: Target) -> Any:
        one = lambda key, _: seed(lambda: method.choose(target))(key)  # noqa: E731
        return in_chunks(one, key, count, chunk)

    latent, density = jax.jit(draws)(as_key(key), target)
    _refuse_impossible(density, where)
    return unflatten({name: latent[name] for name in target.latent})


def _refuse_impossible(density: Any, where: str) -> None:
    if not is_concrete(density):
        return
    impossible = int(np.sum(~np.isfinite(np.asarray(density))))
    if impossible:
        raise error(
            where,
            f"{impossible} of {density.size} draws have no particle to choose",
            expected="a particle with a weight that is neither zero, nor NaN or infinite",
            got="weights that are all zero, or one that is NaN or infinite",
            remedy="give more particles, or a proposal that is nearer to the posterior, as in "
            "em.Importance(guide, n); check the data for NaN and for values outside of the support",
        )


def posterior_predictive(
    model: GenerativeFunction,
    choices: dict[str, Any],
    *args: Any,
    key: Key[Array, ""],
    chunk: int | None = None,
) -> dict[str, Any]:
    """Draws of all other choices of the model, one given each row of these.

    Args:
        model: a generative function.
        choices: latent ones with a leading axis of num_samples, from `posterior_samples`, or from
            a guide, `jax.vmap(em.seed(guide.simulate), (0, None))(keys, phi).choices`.
        args: of the model; other ones than were trained on give predictions for new inputs.
        key: of all draws. That of draw i is the same whatever the chunk.
        chunk: how many draws at a time, which is what takes memory; None for all.

    Returns:
        The choices that were not given, with the same leading axis.

    Raises:
        EstimandError: choices that do not fit the model, that have no common leading axis, or
            that depend on others that are not given.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def model():
        ...     u = em.sample("u", dist.Normal(0.0, 1.0))
        ...     em.sample("x", dist.Normal(u, 1.0))
        >>> us = 0.5 + 0.5**0.5 * jax.random.normal(jax.random.key(0), (4000,))  # given x = 1
        >>> drawn = em.posterior_predictive(model, {"u": us}, key=jax.random.key(1), chunk=500)
        >>> list(drawn), round(float(drawn["x"].var()), 1)  # N(1/2, 3/2)
        (['x'], 1.5)
    """
    where = f"em.posterior_predictive ({source_line()})"
    check_arguments(None, chunk=chunk)
    check_model(model, where)
    program, operands = staged_program(model.fun, model.name, args, {})
    rows = {name: jnp.asarray(x) for name, x in flatten(choices, where=where).items()}
    count = leading(rows, where)

    def one(key: Any, row: dict[str, Any], operands: Any) -> dict[str, Any]:
        given = check_choices(row, program.found, program.name, every=False)
        drawn = seed(lambda: program.run(operands, given).choices)(key)
        return {name: x for name, x in drawn.items() if name not in given}

    def draws(key: Any, rows: dict[str, Any], operands: Any) -> dict[str, Any]:
        return in_chunks(lambda key, row: one(key, row, operands), key, count, chunk, rows)

    _check_order(program, operands, rows, where)
    drawn = jax.jit(draws)(as_key(key), rows, operands)
    return unflatten({name: drawn[name] for name in program.sites if name in drawn})


def leading(rows: dict[str, Any], where: str) -> int:
    """The length of the axis that all choices lead with."""
    shapes = {name: np.shape(x) for name, x in rows.items()}
    lengths = {shape[:1] for shape in shapes.values()}
    if len(lengths) != 1 or not all(lengths) or lengths == {(0,)}:
        listed = [f"{name!r} of shape {list(shape)}" for name, shape in shapes.items()]
        raise error(
            where,
            "the choices are samples, one in each row",
            expected="one and the same leading axis of all choices, of length one or more",
            got=", ".join(listed) or "no choices",
            remedy="pass what em.posterior_samples returned; of a single trace, x[None] of each "
            "choice x",
        )
    return lengths.pop()[0]


def _check_order(program: Program, operands: Any, rows: dict[str, Any], where: str) -> None:
    """Refuse choices whose density depends on choices that are to be drawn."""
    first = jax.eval_shape(lambda rows: {name: x[0] for name, x in rows.items()}, rows)
    omitted = {k: s for k, s in program.sites.items() if k not in rows}
    avals = {k: jax.ShapeDtypeStruct(s.shape, s.dtype) for k, s in omitted.items()}

    def weight(given: dict[str, Any], drawn: dict[str, Any]) -> Any:
        given = check_choices(given, program.found, program.name, every=False)
        return program.run(operands, {**given, **drawn}, given).log_weight

    jaxpr, _ = trace(weight, first, avals)
    names = [*[None] * len(first), *sorted(avals)]
    inputs = [NOTHING if name is None else State({(name,): Dep(())}) for name in names]
    analysis = Dependence(lambda info: False)
    (out,) = analysis.outputs(analysis.analyse(jaxpr, inputs))
    before = ", ".join(repr(name) for (name,) in out.deps)
    if before:
        raise error(
            where,
            "what is given, or a factor, depends on choices that are not given",
            expected="choices that the model draws before all others",
            got=f"{', '.join(map(repr, rows))} without {before}",
            remedy="give those as well, as em.posterior_samples does: drawn anew, they would not "
            "be those of the samples; predict from a model without a factor of what it predicts",
        )
