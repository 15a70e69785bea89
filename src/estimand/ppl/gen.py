"""Generative functions: programs whose named random values have a joint density."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from estimand.ppl.choices import check_choices, unflatten
from estimand.ppl.marginal import Names, marginal_of, posterior_of
from estimand.ppl.target import total
from estimand.transforms.density import Recorder
from estimand.transforms.interpret import interpret
from estimand.transforms.staging import Staged, stage
from estimand.transforms.survey import Found, survey


class Trace(NamedTuple):
    """One run of a generative function.

    Attributes:
        choices: its random values, a nested dict by address. A site under `vmap` has its
            lanes leading, one in a `scan` its steps; in a `vmap` of a `scan` steps come
            before lanes, because the jaxpr of the two is that of a `scan` of a `vmap`.
        log_density: log of the joint density of the choices, factors included; a scalar.
        value: what the function returned.
        log_densities: the terms of `log_density`, with the structure of `choices` (event
            axes summed out) and the factors by name.
        taken: for each choice in a branch of a `cond`, whether its branch was taken. A
            choice that was not has value zero and log density zero.
    """

    choices: dict[str, Any]
    log_density: Float[Array, ""]
    value: Any
    log_densities: dict[str, Any]
    taken: dict[str, Any]


class GenerativeFunction:
    """A program with `em.sample` sites, and its readings. Made by `gen`.

    Called as a function inside another program it is inlined, addresses included.
    """

    def __init__(self, fun: Callable):
        self.fun = fun
        self.name = getattr(fun, "__name__", "program")
        functools.update_wrapper(self, fun, updated=())

    def __get__(self, instance: Any, owner: Any = None) -> "GenerativeFunction":
        """Of a method, the generative function of one instance."""
        bound = instance is not None and hasattr(self.fun, "__get__")
        return GenerativeFunction(self.fun.__get__(instance)) if bound else self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fun(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<generative function {self.name}>"

    def simulate(self, *args: Any, **kwargs: Any) -> Trace:
        """Draw every choice: x_i ~ d_i, and the log density of all of them.

        A program itself: run it with `em.seed`, or use it in an `em.expectation`, where each
        site is estimated by its own strategy.
        """
        staged = stage(self.fun, *args, **kwargs)
        return _run(staged, survey(staged.jaxpr, self.name), Recorder(self.name, {}))

    def assess(self, choices: dict[str, Any], *args: Any, **kwargs: Any) -> Trace:
        """The same reading with every choice given: sum_i log d_i(x_i), and the value.

        Raises:
            EstimandError: addresses, shapes, dtypes or supports that do not fit, all at once.
        """
        staged = stage(self.fun, *args, **kwargs)
        found = survey(staged.jaxpr, self.name)
        values = check_choices(choices, found, self.name)
        return _run(staged, found, Recorder(self.name, values))

    def log_density(self, choices: dict[str, Any], *args: Any, **kwargs: Any) -> Float[Array, ""]:
        """`assess(choices, *args, **kwargs).log_density`.

        Example:
            >>> import estimand as em, numpyro.distributions as dist
            >>> @em.gen
            ... def model():
            ...     em.sample("x", dist.Normal(0.0, 1.0))
            >>> round(float(model.log_density({"x": 0.0})), 4)
            -0.9189
        """
        return self.assess(choices, *args, **kwargs).log_density

    def marginal(
        self, keep: Names | None = None, drop: Names | None = None, via: Any = None
    ) -> "GenerativeFunction":
        r"""The distribution of some of the choices: p(x) = integral of p(x, u) du.

        A generative function of the same arguments, which returns the choices that it keeps.
        With an inexact method its log densities are estimates, log Z with E[Z] = p(x) from
        `assess` and E[1/Z | x] = 1/p(x) from `simulate`, so that an ELBO with either stays a
        lower bound. All choices that are kept have one term in `Trace.log_densities`, under the
        name of the marginal, because the conditionals are not known.

        Args:
            keep: the addresses that are kept, or groups of them; or
            drop: those that are integrated out.
            via: `Importance(proposal, n)`, by default with one particle from the prior;
                `SMC(n)`; or `Enumerate()`, which is exact.

        Raises:
            EstimandError: addresses that the program does not have, a proposal that does not fit,
                or choices that the method cannot integrate out.

        Example:
            >>> import estimand as em, jax, numpyro.distributions as dist
            >>> @em.gen
            ... def mixture():
            ...     k = em.sample("k", dist.Bernoulli(0.5))
            ...     em.sample("x", dist.Normal(4.0 * k.astype(float), 1.0))
            >>> both = mixture.marginal(keep="x", via=em.Enumerate())
            >>> float(em.seed(both.log_density)(jax.random.key(0), {"x": 2.0}))
            -2.9189...
        """
        return GenerativeFunction(marginal_of(self.fun, self.name, keep, drop, via))

    def normalize(self, observed: dict[str, Any], via: Any = None) -> "GenerativeFunction":
        r"""The distribution of the other choices given these: p(u | x) = p(x, u) / p(x).

        A generative function of the same arguments, which returns the choices that are not
        observed. With an inexact method its draws are those of the method (of n particles one, in
        proportion to weight), which tend to the posterior with n, and the log density is
        log p(x, u) - log Z.

        Args:
            observed: choices, as for `assess`; the rest of the addresses are latent.
            via: as for `marginal`.

        Example:
            >>> import estimand as em, jax, numpyro.distributions as dist
            >>> @em.gen
            ... def coin():
            ...     fair = em.sample("fair", dist.Bernoulli(0.5))
            ...     em.sample("heads", dist.Bernoulli(1.0 - 0.5 * fair.astype(float)))
            >>> posterior = coin.normalize({"heads": 1}, via=em.Enumerate())
            >>> round(float(em.seed(posterior.log_density)(jax.random.key(0), {"fair": 1})), 4)
            -1.0986
        """
        return GenerativeFunction(posterior_of(self.fun, self.name, observed, via))


def gen(fun: Callable) -> GenerativeFunction:
    """Make a function with `em.sample` sites a generative function.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.gen
        ... def model(scale):
        ...     x = em.sample("x", dist.Normal(0.0, scale))
        ...     em.sample("y", dist.Normal(x, 1.0))
        >>> trace = em.seed(model.simulate)(jax.random.key(0), 2.0)
        >>> again = model.assess(trace.choices, 2.0)
        >>> bool(abs(trace.log_density - again.log_density) < 1e-5)
        True
    """
    return GenerativeFunction(fun)


def _run(staged: Staged, found: list[Found], recorder: Recorder) -> Trace:
    value = staged.unflatten(interpret(staged.jaxpr, staged.inputs, recorder))
    records = recorder.records
    conditional = {item.address for item in found if item.branches}
    values = {name: r["value"] for name, r in records.items() if "value" in r}
    terms = {name: r["log_density"] for name, r in records.items() if "log_density" in r}
    taken = {name: records[name]["taken"] for name in values if name in conditional}
    log_density = total([jnp.sum(term) for term in terms.values()])
    return Trace(unflatten(values), log_density, value, unflatten(terms), unflatten(taken))
