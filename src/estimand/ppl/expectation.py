"""Objectives: expectations of programs, and unbiased estimators of their derivatives."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from estimand.errors import EstimandError, definition, error, is_count
from estimand.ppl.arguments import described, mean_over_samples, positive_count
from estimand.ppl.chooser import Chooser, as_mapping
from estimand.ppl.explain import explain
from estimand.ppl.learning import NOTHING, State, by_path, differentiated, first_state, stepped
from estimand.ppl.nonfinite import find_nonfinite
from estimand.transforms.check import check, guarded
from estimand.transforms.guards import is_inexact
from estimand.transforms.inline import inline
from estimand.transforms.lift import NO_ZEROS, run
from estimand.transforms.numbering import numbered
from estimand.transforms.plan import Plan, make_plan
from estimand.transforms.primitives import mark
from estimand.transforms.relax import relax
from estimand.transforms.seed import as_key
from estimand.transforms.staging import Staged, is_traced, stage
from estimand.transforms.strategy import Strategy


class Expectation:
    """E[fun(*args)] over the random values of `fun`. Made by `expectation`.

    Called inside another program it is its expectation there: free in a linear position
    (sums, averages, `vmap`), an error in a non-linear one.
    """

    def __init__(self, fun: Callable, overrides: Mapping[str, Strategy] | None = None):
        self.fun = fun
        self.overrides = dict(overrides or {})
        self.name = getattr(fun, "__name__", "objective")
        functools.update_wrapper(self, fun, updated=())

    def __get__(self, instance: Any, owner: Any = None) -> "Expectation":
        """Of a method, the objective of one instance."""
        bound = instance is not None and hasattr(self.fun, "__get__")
        return Expectation(self.fun.__get__(instance), self.overrides) if bound else self

    def __repr__(self) -> str:
        return f"<expectation {self.name}>"

    @property
    def where(self) -> str:
        return f"objective {self.name!r} ({definition(self.fun)})"

    def __call__(self, *args: Any) -> Float[Array, ""]:
        if self.overrides:
            raise self._overridden()
        value = self.fun(*args)
        number = is_traced(value) and jnp.shape(value) == () and is_inexact(value)
        if not number:
            raise self._not_one_number(described(value), has_aux=False)
        return mark(value, "expectation", name=self.name)

    def using(self, strategies: Mapping[str, Strategy]) -> "Expectation":
        """The same objective with other strategies for some sites.

        Args:
            strategies: from a site's label (`guide/z`), or any unambiguous suffix of it
                (`z`), to a strategy. Checked when the program is first traced.
        """
        new = as_mapping(strategies, self.where)
        old = {name: s for name, s in self.overrides.items() if name not in new}
        return Expectation(self.fun, {**old, **new})  # the last word counts

    def surrogate(
        self,
        key: Any,
        *args: Any,
        has_aux: bool = False,
        argnums: int | Sequence[int] = (),
        state: State | None = None,
    ) -> Any:
        """A scalar whose value and derivatives are unbiased estimates of the objective's.

        With S the surrogate, E[S] = E[fun] and E[dS] = dE[fun] for derivatives by any of
        JAX's transformations, up to the order that the strategies declare.

        Args:
            argnums: the arguments that will be differentiated. Where a derivative would be
                biased, by one of these is an error now, and by another one when it is
                differentiated.
            state: of the strategies that have one, from `init`.
        """
        staged, plan = self._compile(args, has_aux, argnums)
        value, others = self._run(staged, plan, key, state)
        if not has_aux:
            return value
        _, aux = staged.unflatten([value, *map(jax.lax.stop_gradient, others)])
        return value, aux

    def _run(
        self, staged: Staged, plan: Plan, key: Any, state: State | None, zeros: Mapping = NO_ZEROS
    ) -> tuple[Any, list[Any]]:
        """The surrogate and the program's other outputs; `zeros` are added to sites' leaves."""
        states = by_path(plan, state, self.where)
        (value, *others), control = run(plan, staged.inputs, as_key(key), states, zeros)
        return value + jnp.asarray(control).astype(value.dtype), others

    def estimate(
        self,
        key: Any,
        *args: Any,
        has_aux: bool = False,
        num_samples: int = 1,
        argnums: int | Sequence[int] = (),
        state: State | None = None,
    ) -> Any:
        """An unbiased estimate of the objective: the mean of `num_samples` surrogates."""
        one = functools.partial(self.surrogate, has_aux=has_aux, argnums=argnums, state=state)
        if positive_count(num_samples) == 1:
            return one(key, *args)
        samples = jax.vmap(lambda k: one(k, *args))(jax.random.split(as_key(key), num_samples))
        return jax.tree.map(lambda x: mean_over_samples(x, self.where), samples)

    def value_and_grad(
        self,
        key: Any,
        *args: Any,
        argnums: int | Sequence[int] = 0,
        has_aux: bool = False,
        num_samples: int = 1,
        state: State | None = None,
    ) -> Any:
        """Unbiased estimates of the objective and of its gradient.

        Args:
            key: a JAX random key.
            *args: the objective's arguments.
            argnums: which arguments to differentiate.
            has_aux: whether the program returns (value, aux); aux is averaged over samples
                and over the points of multi-point sites.
            num_samples: independent surrogates to average.
            state: of the strategies that learn, from `init`; with it the result is
                ((value, gradient), new state).

        Returns:
            (value, gradient), value being (value, aux) with `has_aux`. The gradient has the
            structure of the arguments, with None for leaves that are not floating.
        """
        nums = self._positions(argnums, args)
        leaves, treedef = jax.tree.flatten([args[i] for i in nums])
        free = [is_traced(x) and is_inexact(x) for x in leaves]

        def value(free_leaves: list[Any], state: State | None) -> Any:
            rest = iter(free_leaves)
            merged = [next(rest) if f else x for x, f in zip(leaves, free, strict=True)]
            full = list(args)
            for i, arg in zip(nums, jax.tree.unflatten(treedef, merged), strict=True):
                full[i] = arg
            return self.estimate(
                key, *full, has_aux=has_aux, num_samples=num_samples, argnums=nums, state=state
            )

        inputs = [jnp.asarray(x) for x, f in zip(leaves, free, strict=True) if f]
        if state is None or state == NOTHING:  # then to plan the program once is enough
            out, slopes = jax.value_and_grad(value, has_aux=has_aux)(inputs, state)
        else:
            plan = self._compile(args, has_aux)[1]
            by_path(plan, state, self.where)
            out, slopes, own = differentiated(value, inputs, state, has_aux)
            state = stepped(plan, state, own)
        rest = iter(slopes)
        grads = jax.tree.unflatten(treedef, [next(rest) if f else None for f in free])
        result = out, tuple(grads) if isinstance(argnums, Sequence) else grads[0]
        return result if state is None else (result, state)

    def grad(self, key: Any, *args: Any, state: Any = None, **kwargs: Any) -> Any:
        """The gradient of `value_and_grad`, or (gradient, aux); with `state`, (that, new state)."""
        result = self.value_and_grad(key, *args, state=state, **kwargs)
        (out, grads), new = result if state is not None else (result, None)
        found = (grads, out[1]) if kwargs.get("has_aux") else grads
        return found if state is None else (found, new)

    def init(self, key: Any, *args: Any, has_aux: bool = False) -> State:
        """The first state of the strategies that learn: an explicit pytree, to be passed along.

        Strategies that do not learn have none, and no state need then be passed.

        Example:
            >>> import estimand as em, jax, numpyro.distributions as dist
            >>> @em.expectation
            ... def heads(p):
            ...     x = em.sample("x", dist.Bernoulli(p), via=em.Score(em.MovingAverage()))
            ...     return 10.0 * x.astype(float)
            >>> state = heads.init(jax.random.key(0), 0.3)
            >>> float(state.learned["x"])
            0.0
            >>> (value, grad), state = heads.value_and_grad(jax.random.key(1), 0.3, state=state)
            >>> bool(state.learned["x"] == value)  # what this lane reached so far
            True
        """
        return first_state(self._compile(args, has_aux)[1], as_key(key))

    def find_nonfinite(
        self, key: Any, *args: Any, num_samples: int = 1, state: State | None = None
    ) -> str:
        """Where the first NaN or infinity of an estimate comes from, as a sentence.

        Args:
            key, *args, num_samples, state: as they were for the estimate.
        """
        return find_nonfinite(self, key, args, num_samples, state)

    def explain(self, *args: Any, has_aux: bool = False) -> str:
        """One line a site: its strategy, why, what it costs and what it touches."""
        return explain(self._compile(args, has_aux)[1], self.name)

    def _compile(
        self, args: Sequence[Any], has_aux: bool, argnums: int | Sequence[int] = ()
    ) -> tuple[Staged, Plan]:
        nums = self._positions(argnums, args)
        staged = stage(self.fun, *args)
        self._check_output(staged, has_aux)
        chooser = Chooser(self.overrides)
        flat = relax(inline(numbered(staged.jaxpr), chooser.unroll), chooser.relaxes)
        plan = make_plan(flat, chooser.choose, chooser.fallback)
        chooser.check_overrides([info.label for info in plan.sites.values()], self.where)
        free = [is_inexact(x) for x in staged.inputs]
        try:
            plan.first_order_only = check(plan, free)
        except EstimandError:
            owners = [i for i, arg in enumerate(args) for x in jax.tree.leaves(arg) if is_traced(x)]
            moved = [i in nums and f for i, f in zip(owners, free, strict=True)]
            plan.first_order_only = check(plan, moved)
            staged = staged._replace(inputs=guarded(plan, staged.inputs, owners))
        return staged, plan

    def _positions(self, argnums: int | Sequence[int], args: Sequence[Any]) -> tuple[int, ...]:
        """`argnums` as positions of arguments, counted from the front."""
        given = tuple(argnums) if isinstance(argnums, Sequence) else (argnums,)
        inside = all(is_count(i) and -len(args) <= i < len(args) for i in given)
        if inside and len({i % len(args) for i in given}) == len(given):
            return tuple(int(i) % len(args) for i in given)
        raise error(
            self.where,
            "argnums names the arguments to differentiate, the key not counted",
            expected=f"different integers from {-len(args)} to {len(args) - 1}"
            if args
            else "at least one argument",
            got=repr(argnums),
            remedy="count from the argument after the key, which is 0",
        )

    def _check_output(self, staged: Staged, has_aux: bool) -> None:
        value = shapes = staged.out_shapes
        if has_aux:
            value = shapes[0] if isinstance(shapes, tuple) and len(shapes) == 2 else None
        scalar = isinstance(value, jax.ShapeDtypeStruct) and value.shape == ()
        if not scalar or not jnp.issubdtype(value.dtype, jnp.floating):
            raise self._not_one_number(described(shapes), has_aux)

    def _not_one_number(self, got: str, has_aux: bool) -> EstimandError:
        return error(
            self.where,
            "an objective is one real number",
            expected="a pair of a floating scalar and aux" if has_aux else "a floating scalar",
            got=got,
            remedy="sum or average inside the objective; what else is wanted is aux, of "
            "value_and_grad(..., has_aux=True), of which training makes no use",
        )

    def _overridden(self) -> EstimandError:
        names = ", ".join(map(repr, self.overrides))
        return error(
            self.where,
            "its using() holds for its own estimates, and here it is called inside a program",
            expected="the strategies of an inner expectation given by the outer objective",
            got=f"a call of {self.name}.using(...), which re-targets {names}",
            remedy=f"call {self.name} itself, and put using() on the objective that calls it",
        )


def expectation(fun: Callable) -> Expectation:
    """Make a program that returns a number the objective E[number].

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def second_moment(mu):
        ...     return em.draw(dist.Normal(mu, 1.0)) ** 2
        >>> value, grad = second_moment.value_and_grad(jax.random.key(0), 3.0, num_samples=4000)
        >>> bool(abs(value - 10.0) < 0.5), bool(abs(grad - 6.0) < 0.2)
        (True, True)
    """
    return Expectation(fun)
