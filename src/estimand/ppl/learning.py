"""The state of an objective's strategies: parameters of their own, and how they are trained.

A strategy with parameters says how: by their gradient of the surrogate, which is that of a loss
of its own (`estimators/baseline.py`), or by that of the squared norm of the estimated gradient,
so that they lower its variance (`Strategy.tuned`; its mean does not depend on them):

    d/dw E|g|^2 = d/dw (|E g|^2 + tr Cov g) = d/dw tr Cov g

(Grathwohl et al. 2018, equation 7).
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from estimand.errors import EstimandError, error
from estimand.transforms.combine import drawn_together
from estimand.transforms.guards import estimates_are_differentiated
from estimand.transforms.interpret import Path
from estimand.transforms.plan import Plan
from estimand.transforms.strategy import Law


class State(NamedTuple):
    """What the strategies of an objective have learned, by the labels of their sites.

    Attributes:
        learned: parameters that are trained by a loss of their own, as baselines are.
        tuned: parameters that are trained to lower the variance of the gradient.
        opt_state: of each strategy's own optimizer.
    """

    learned: dict[str, PyTree]
    tuned: dict[str, PyTree]
    opt_state: dict[str, PyTree]

    @property
    def parameters(self) -> dict[str, PyTree]:
        return {**self.learned, **self.tuned}


NOTHING = State({}, {}, {})


def learners(plan: Plan) -> dict[str, Path]:
    """The sites whose strategies have a state, by their label; repeated ones are numbered."""
    found, seen = {}, Counter[str]()
    for path in sorted(plan.sites, key=lambda p: plan.sites[p].order):
        if plan.chosen[path].strategy.optimizer is not None:
            label = plan.sites[path].label
            seen[label] += 1
            found[label if seen[label] == 1 else f"{label}#{seen[label]}"] = path
    return found


def first_state(plan: Plan, key: Any) -> State:
    state = State({}, {}, {})
    for name, path in learners(plan).items():
        info, strategy = plan.sites[path], plan.chosen[path].strategy
        joint = drawn_together(info, plan.joint[path])
        law = Law(info.site, list(info.leaves), info.shape, joint, label=info.label)
        parameters = strategy.init(jax.random.fold_in(key, info.order), law)
        (state.tuned if strategy.tuned else state.learned)[name] = parameters
        state.opt_state[name] = _optimizer(plan, path).init(parameters)
    return state


def by_path(plan: Plan, state: State | None, where: str) -> dict[Path, PyTree]:
    """Each learning site's parameters."""
    wanted = learners(plan)
    if not wanted and state is None:
        return {}
    expected = jax.eval_shape(partial(first_state, plan), jax.random.key(0)) if wanted else NOTHING
    if not isinstance(state, State) or _form(state) != _form(expected):
        raise _another_state(plan, where, expected, state)
    return {path: state.parameters[name] for name, path in wanted.items()}


def _form(tree: PyTree) -> Any:
    """What two states of one objective at one size of data have in common."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(jnp.shape(x), jnp.result_type(x)) for x in leaves]


def differentiated(value: Callable, inputs: Any, state: State, has_aux: bool) -> Any:
    """The value and gradient of `value(inputs, state)`, and the state's own gradients."""

    def spread(tuned: Any) -> Any:
        def at(inputs: Any, learned: Any) -> Any:
            return value(inputs, state._replace(learned=learned, tuned=tuned))

        both = jax.value_and_grad(at, argnums=(0, 1), has_aux=has_aux)
        out, (slopes, learned) = both(inputs, state.learned)
        squares = [jnp.sum(jnp.abs(x).astype(float) ** 2) for x in jax.tree.leaves(slopes)]
        return sum(squares, start=jnp.zeros(())), (out, slopes, learned)

    if not state.tuned:
        out, slopes, learned = spread({})[1]
        return out, slopes, learned
    with estimates_are_differentiated():
        tuned, (out, slopes, learned) = jax.grad(spread, has_aux=True)(state.tuned)
    return out, slopes, {**learned, **tuned}


def stepped(plan: Plan, state: State, slopes: dict[str, PyTree]) -> State:
    """The state after one step of each strategy's optimizer."""
    new, opt_state = {}, {}
    for name, path in learners(plan).items():
        old = state.parameters[name]
        with jax.numpy_dtype_promotion("standard"):  # Optax does not do with the strict one
            updates, opt_state[name] = _optimizer(plan, path).update(
                slopes[name], state.opt_state[name], old
            )
            new[name] = optax.apply_updates(old, updates)
    learned = {name: new[name] for name in state.learned}
    return State(learned, {name: new[name] for name in state.tuned}, opt_state)


def _optimizer(plan: Plan, path: Path) -> optax.GradientTransformation:
    optimizer = plan.chosen[path].strategy.optimizer
    assert optimizer is not None
    return optimizer


def _another_state(plan: Plan, where: str, expected: State, got: Any) -> EstimandError:
    """Names the sites whose parts differ, and where these look alike the trees that they are."""
    wanted, parts = learners(plan), _parts(expected)
    given = _parts(got) if isinstance(got, State) else {}
    labels = [k for k in sorted(parts | given) if _form(given.get(k)) != _form(parts.get(k))]
    sites = [plan.sites[wanted[k]].where for k in labels if k in wanted]
    for say in (_shapes, _types, _structures):
        words = [say(x, labels) or "no site" for x in (parts, given)]
        if words[0] != words[1] or not isinstance(got, State):
            break
    other = "state=None" if got is None else f"a {type(got).__name__}"
    return error(
        "; ".join(sites) if isinstance(got, State) and sites else where,
        "some of its strategies learn, and have a state",
        expected=f"the state of {words[0]}",
        got=f"a state of {words[1]}" if isinstance(got, State) else other,
        remedy="state = objective.init(key, *args), with these strategies and with arguments of "
        "these shapes, and pass state=state to every estimate",
    )


def _parts(state: State) -> dict[str, Any]:
    """By the label of a site: its parameters, and the state of its optimizer."""
    labels = state.parameters.keys() | state.opt_state.keys()
    return {k: (state.parameters.get(k), state.opt_state.get(k)) for k in labels}


def _shapes(parts: dict[str, Any], labels: list[str]) -> str:
    shapes = {k: [list(jnp.shape(x)) for x in jax.tree.leaves(parts[k][0])] for k in parts}
    return ", ".join(f"{k} {shapes[k]}" for k in labels if k in parts)


def _types(parts: dict[str, Any], labels: list[str]) -> str:
    def types(tree: Any) -> str:
        leaves = jax.tree.leaves(tree)
        return "[" + ", ".join(f"{jnp.result_type(x)}{list(jnp.shape(x))}" for x in leaves) + "]"

    return ", ".join(f"{k} {types(parts[k][0])} and optimizer {types(parts[k][1])}" for k in labels)


def _structures(parts: dict[str, Any], labels: list[str]) -> str:
    return str(jax.tree.structure({k: parts[k] for k in labels}))
