"""Export to ArviZ."""

from typing import Any

import jax
import numpy as np

from estimand.errors import EstimandError, error, source_line
from estimand.ppl.arguments import check_arguments
from estimand.ppl.choices import flatten
from estimand.ppl.evaluation.chunks import check_model, in_chunks
from estimand.ppl.evaluation.samples import leading
from estimand.ppl.gen import GenerativeFunction
from estimand.ppl.language import seed
from estimand.transforms.jaxprs import as_function
from estimand.transforms.staging import stage


def to_arviz(
    model: GenerativeFunction,
    choices: dict[str, Any],
    observed: dict[str, Any],
    *args: Any,
    predictive: dict[str, Any] | None = None,
    chunk: int | None = None,
) -> Any:
    """Samples and data as an ArviZ DataTree, for its plots, summaries and model comparison.

    Its groups are `posterior`; `observed_data`; `log_likelihood`, the terms of the observed
    choices in `Trace.log_densities`, one for each sample; and `posterior_predictive`, if given.
    All samples are one chain. The address `a/b` is the variable `a.b`, because a slash means a
    group there. Needs the extra `estimand[arviz]`.

    A choice observed through a marginal has no term of its own, and so no `log_likelihood`.

    Args:
        model: a generative function.
        choices: its latent ones with a leading axis, from `posterior_samples` or a guide.
        observed: all of its other choices.
        args: of the model.
        predictive: what `posterior_predictive` returned.
        chunk: for how many samples the likelihood is computed at a time; None for all.

    Returns:
        An `xarray.DataTree`.

    Raises:
        EstimandError: choices that do not fit the model, or a missing extra.
    """
    where = f"em.to_arviz ({source_line()})"
    check_arguments(None, chunk=chunk)
    check_model(model, where)
    arviz = _arviz_base(where)
    rows, data = flatten(choices, where=where), flatten(observed, where=where)
    count = leading(rows, where)

    groups = {
        "posterior": {name: np.asarray(x)[None] for name, x in rows.items()},
        "observed_data": {name: np.asarray(x) for name, x in data.items()},
        "log_likelihood": _log_likelihood(model, rows, data, args, count, chunk),
    }
    if predictive is not None:
        drawn = flatten(predictive, where=where)
        _check_length(leading(drawn, where), count, where)
        groups["posterior_predictive"] = {k: np.asarray(x)[None] for k, x in drawn.items()}
    return arviz.from_dict({group: _dotted(x, where) for group, x in groups.items() if x})


def _log_likelihood(
    model: Any, rows: Any, data: Any, args: Any, count: int, chunk: int | None
) -> dict[str, Any]:
    """The terms of the observed choices, one chain of one for each row."""

    def terms(rows: dict[str, Any], data: dict[str, Any], *args: Any) -> Any:
        def one(key: Any, row: dict[str, Any]) -> dict[str, Any]:
            found = seed(model.assess)(key, {**row, **data}, *args).log_densities
            found = flatten(found, where=model.name)
            return {name: found[name][None] for name in data if name in found}

        key = jax.random.key(0)  # of what has no term of its own: a marginal's particles
        return in_chunks(one, key, count, chunk, rows)

    staged = stage(terms, rows, data, *args)
    found = staged.unflatten(jax.jit(as_function(staged.jaxpr))(*staged.inputs))
    return {name: np.swapaxes(np.asarray(x), 0, 1) for name, x in found.items()}


def _dotted(group: dict[str, Any], where: str) -> dict[str, Any]:
    dotted = {name.replace("/", "."): x for name, x in group.items()}
    if len(dotted) < len(group):
        raise error(
            where,
            "two addresses would be one variable",
            expected="addresses that differ when a slash is written as a dot",
            got=", ".join(map(repr, group)),
            remedy="rename one of them in the model",
        )
    return dotted


def _check_length(drawn: int, count: int, where: str) -> None:
    if drawn != count:
        raise error(
            where,
            "each prediction belongs to one posterior sample",
            expected=f"{count} predictions",
            got=f"{drawn}",
            remedy="pass what em.posterior_predictive returned for these choices",
        )


def _arviz_base(where: str) -> Any:
    try:
        import arviz_base
    except ImportError as problem:
        raise _missing(where) from problem
    return arviz_base


def _missing(where: str) -> EstimandError:
    return error(
        where,
        "the export is to ArviZ's data structures",
        expected="the package arviz-base, which an extra brings",
        got="no module named arviz_base",
        remedy="pip install 'estimand[arviz]'",
    )
