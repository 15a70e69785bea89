"""A program run by n particles side by side, resampled between the steps of its scans.

The program's equations are evaluated one by one. A value is shared until it depends on a latent
choice; from then on it has the particles as its leading axis. Where particles are resampled, so is
all that depends on them: the carry, what was computed before the loop, the choices so far.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dists
from jax import lax

from estimand.errors import EstimandError, error
from estimand.ppl.target import total
from estimand.transforms.density import Recorder, addresses_in
from estimand.transforms.guards import refuse_derivative
from estimand.transforms.inline import CALLS
from estimand.transforms.interpret import has_sites, interpret, split_at
from estimand.transforms.jaxprs import (
    Equation,
    Jaxpr,
    alone,
    close,
    read,
    scan_arity,
    scopes,
    subjaxprs,
)
from estimand.transforms.primitives import bind_site
from estimand.transforms.weights import log_mean_exp, or_equal

Choices = dict[str, Any]


class Value(NamedTuple):
    array: Any
    many: bool = False  # whether the particles are its leading axis


class Particles:
    """The particles of a program of which some choices are given.

    `method` says how many there are and how they are resampled. `retained` are the latent choices
    of the first particle, where there is one that is not to be drawn. After `run`: the latent
    `choices` of all particles, their `log_weights`, and `log_z` up to the last resampling.
    """

    def __init__(self, method: Any, owner: str, given: Choices, retained: Choices | None):
        self.method, self.n, self.owner = method, method.n, owner
        self.given, self.retained = given, retained
        self.choices: Choices = {}
        self.log_weights, self.log_z = jnp.zeros(self.n), jnp.zeros(())
        self.envs: list[dict[Any, Value]] = []

    def run(self, jaxpr: Jaxpr, inputs: Sequence[Value], scope: tuple[str, ...]) -> list[Value]:
        inner = close(jaxpr).jaxpr
        env = {v: Value(x) for v, x in zip(inner.constvars, close(jaxpr).consts, strict=True)}
        env.update(zip(inner.invars, inputs, strict=True))
        self.envs.append(env)
        for eqn in inner.eqns:
            operands = [_value(read(env, v)) for v in eqn.invars]
            around = (*scope, *scopes(eqn))
            bodies, name = list(subjaxprs(eqn)), eqn.primitive.name
            latent = any(addresses_in(body, around) - set(self.given) for body in bodies)
            if latent and name in CALLS:
                outs = self.run(bodies[0], operands, around)
            elif latent and name == "scan":
                outs = self._scan(eqn, operands, around)
            else:
                outs = self._equation(eqn, operands, scope)
            env.update(zip(eqn.outvars, outs, strict=True))
        self.envs.pop()
        return [_value(read(env, v)) for v in inner.outvars]

    def _equation(
        self, eqn: Equation, operands: list[Value], scope: tuple[str, ...]
    ) -> list[Value]:
        jaxpr, inputs = alone(eqn, operands)
        latent = addresses_in(jaxpr, scope) - set(self.given)
        many = bool(latent) or any(x.many for x in inputs)

        def one(given: Choices, *arrays: Any) -> Any:
            return self._read(jaxpr, arrays, given, scope)

        if not many:
            outs, _, weight = one(self.given, *(x.array for x in inputs))
        elif not has_sites(jaxpr):
            axes = [0 if x.many else None for x in inputs]
            outs = jax.vmap(lambda *xs: interpret(jaxpr, xs, Recorder(self.owner, {})), axes)(
                *(x.array for x in inputs)
            )
            return [Value(x, True) for x in outs]
        else:
            outs, values, weight = self._each(one, inputs, self.given, self.retained)
            self.choices.update(values)
        self.log_weights = self.log_weights + weight
        return [Value(x, many) for x in outs]

    def _read(
        self, jaxpr: Jaxpr, arrays: Sequence[Any], given: Choices, scope: tuple[str, ...]
    ) -> tuple[list[Any], Choices, Any]:
        """Results, latent choices and log weight of one particle."""
        recorder = Recorder(self.owner, given, self.given)
        outs = interpret(jaxpr, arrays, recorder, (), scope)
        records = recorder.records
        values = {k: r["value"] for k, r in records.items() if "value" in r and k not in self.given}
        weight = total([jnp.sum(r["log_weight"]) for r in records.values() if "log_weight" in r])
        return outs, values, weight

    def _each(
        self, one: Callable, inputs: Sequence[Value], given: Choices, retained: Choices | None
    ) -> Any:
        """`one(given, *inputs)` of every particle; the first one's latent choices are retained."""
        first, parts = 0 if retained is None else 1, []
        if retained is not None:
            arrays = [x.array[0] if x.many else x.array for x in inputs]
            parts.append(jax.tree.map(lambda x: x[None], one({**given, **retained}, *arrays)))
        if self.n > first:
            arrays = [x.array[first:] if x.many else x.array for x in inputs]
            axes = [0 if x.many else None for x in inputs]
            drawn = jax.vmap(lambda i, *xs: one(given, *xs), (0, *axes))
            parts.append(drawn(jnp.arange(self.n - first), *arrays))
        return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)

    def _scan(self, eqn: Equation, operands: list[Value], scope: tuple[str, ...]) -> list[Value]:
        (body,) = subjaxprs(eqn)
        num_consts, num_carry = scan_arity(eqn)
        consts, init, xs = split_at(operands, num_consts, num_carry)
        names, reverse = addresses_in(body, scope), eqn.params["reverse"]
        if not eqn.params["length"]:
            empty = [jnp.zeros(v.aval.shape, v.aval.dtype) for v in eqn.outvars]
            return [*init, *map(Value, empty[num_carry:])]

        def in_order(x: Any) -> Any:
            return jnp.flip(x, 0) if reverse else x

        def own(choices: Choices | None) -> Any:
            among = sorted(names & set(choices or {}))
            return None if choices is None else {k: in_order(choices[k]) for k in among}

        rows = [in_order(jnp.moveaxis(x.array, 1, 0) if x.many else x.array) for x in xs]
        steps = rows, own(self.given), own(self.retained)

        def propagate(carry: list[Any], root: Any, step: Any) -> Any:
            row, given, retained = step
            before = [Value(c.array[root], True) if c.many else c for c in consts]
            now = [Value(x[root] if v.many else x, v.many) for x, v in zip(row, xs, strict=True)]

            def one(given: Choices, *arrays: Any) -> Any:
                return self._read(body, arrays, given, scope)

            values = [*before, *(Value(c, True) for c in carry), *now]
            outs, choices, weight = self._each(one, values, given, retained)
            return outs[:num_carry], outs[num_carry:], choices, weight

        def step(state: Any, step: Any) -> Any:
            carry, log_weights, log_z, root = state
            ancestors, log_weights, log_z = self._resample(log_weights, log_z)
            carry, root = [c[ancestors] for c in carry], root[ancestors]
            carry, ys, choices, weight = propagate(carry, root, step)
            return (carry, log_weights + weight, log_z, root), (ancestors, ys, choices)

        root = jnp.arange(self.n)
        carry = [c.array if c.many else _repeated(c.array, self.n) for c in init]
        first, rest = (jax.tree.map(lambda x, k=k: x[k], steps) for k in (0, slice(1, None)))
        carry, *found, weight = propagate(carry, root, first)
        state = carry, self.log_weights + weight, self.log_z, root
        length = eqn.params["length"] - 1
        state, (ancestors, *later) = lax.scan(step, state, rest, length=length)
        carry, self.log_weights, self.log_z, root = state
        self._reorder(root)
        ys, choices = _lineages(found, later, ancestors, in_order)
        self.choices.update(choices)
        return [Value(x, True) for x in (*carry, *ys)]

    def _resample(self, log_weights: Any, log_z: Any) -> tuple[Any, Any, Any]:
        """Ancestors, and what is left of the weights, and is known of the evidence, after them."""
        method, everyone = self.method, jnp.arange(self.n)
        if method.threshold == 0:
            return everyone, log_weights, log_z
        logits = or_equal(log_weights)
        if method.resampling == "systematic":
            ancestors = self._systematic(logits)
        else:
            label = f"{self.owner}/ancestor"
            law = dists.Categorical(logits=logits)
            drawn = self.n if self.retained is None else self.n - 1
            draw = lambda _: bind_site(law, name=None, via=None, label=label)  # noqa: E731
            ancestors = jax.vmap(draw)(jnp.arange(drawn))
            if self.retained is not None:
                ancestors = jnp.concatenate([jnp.zeros(1, ancestors.dtype), ancestors])
        gained = log_mean_exp(log_weights)
        if method.threshold == 1:
            return ancestors, jnp.zeros_like(log_weights), log_z + gained
        share = jax.nn.softmax(refuse_derivative(logits, self._jumps))
        few = 1.0 / jnp.sum(share**2) < method.threshold * self.n
        ancestors = jnp.where(few, ancestors, everyone)
        return ancestors, jnp.where(few, 0.0, log_weights), log_z + jnp.where(few, gained, 0.0)

    def _systematic(self, logits: Any) -> Any:
        label = f"{self.owner}/offset"
        offset = bind_site(dists.Uniform(0.0, 1.0), name=None, via=None, label=label)
        ends = jnp.cumsum(jax.nn.softmax(refuse_derivative(logits, self._jumps)))
        points = (jnp.arange(self.n).astype(offset.dtype) + offset) / self.n
        found = jnp.searchsorted(ends, points).astype(jnp.result_type(int))
        return jnp.minimum(found, self.n - 1)  # where rounding leaves the last end below one

    def _jumps(self) -> EstimandError:
        return error(
            self.method.where,
            f"the particles of {self.owner} are resampled by a rule that jumps with the weights, "
            "so that a derivative would be biased",
            expected="multinomial resampling at every step where it is differentiated",
            got=repr(self.method),
            remedy="write em.SMC(n), or put em.detach around the arguments that are differentiated",
        )

    def _reorder(self, root: Any) -> None:
        """What was computed before a loop, as the survivors' ancestors had it."""
        self.choices = {k: x[root] for k, x in self.choices.items()}
        for env in self.envs:
            env.update({v: Value(x.array[root], True) for v, x in env.items() if x.many})


def _lineages(first: Any, later: Any, ancestors: Any, in_order: Callable) -> Any:
    """Of what each particle of each step had, what the last ones' ancestors had: [n, T, ...]."""
    last = jnp.arange(ancestors.shape[1])

    def back(index: Any, ancestors: Any) -> Any:
        before = ancestors[index]
        return before, before

    _, before = lax.scan(back, last, ancestors, reverse=True)
    index = jnp.concatenate([before, last[None]])

    def gathered(first: Any, later: Any) -> Any:
        steps = jnp.concatenate([first[None], later])
        return jnp.moveaxis(in_order(jax.vmap(lambda x, i: x[i])(steps, index)), 0, 1)

    return jax.tree.map(gathered, first, later)


def _value(x: Any) -> Value:
    return x if isinstance(x, Value) else Value(x)


def _repeated(x: Any, n: int) -> Any:
    return jnp.broadcast_to(x, (n, *jnp.shape(x)))
