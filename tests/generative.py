"""Generative functions under every kind of control flow, each with its density by hand.

A row is a program, its arguments, the shapes of its choices, and `density(choices, args)`: the
terms of the log density by address, in plain NumPyro and Python loops.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax

import estimand as em

ROWS = {}
LEVELS = jnp.array([0.1, -0.4, 0.9])


@dataclasses.dataclass(frozen=True)
class Row:
    program: Callable
    args: tuple
    shapes: dict
    density: Callable


def row(args, shapes):
    def enter(body):
        ROWS[body.__name__] = Row(em.gen(body.program), args, shapes, body.density)
        return body

    return enter


def normal(x, loc, scale=1.0):
    return dist.Normal(loc, scale).log_prob(x)


@row((0.5,), {"x": (), "y": (2,)})
class Straight:
    def program(loc):
        x = em.sample("x", dist.Normal(loc, 1.0))
        return em.sample("y", dist.Normal(x, 0.5).expand([2]).to_event(1)) * x

    def density(c, loc):
        return {"x": normal(c["x"], loc), "y": normal(c["y"], c["x"], 0.5).sum()}


@row((0.5,), {"x": ()})
class Factor:
    def program(loc):
        x = em.sample("x", dist.Normal(loc, 1.0))
        em.factor("tilt", -(x**2))

    def density(c, loc):
        return {"x": normal(c["x"], loc), "tilt": -(c["x"] ** 2)}


@row((0.5,), {"x": (3,)})
class FactorInVmap:
    """A factor counts once a lane, also one that is the same in every lane."""

    def program(loc):
        def lane(level):
            x = em.sample("x", dist.Normal(loc, 1.0))
            em.factor("own", level * x)
            em.factor("same", loc)

        jax.vmap(lane, out_axes=None)(LEVELS)

    def density(c, loc):
        same = jnp.full(3, loc)
        return {"x": normal(c["x"], loc), "own": LEVELS * c["x"], "same": same}


@row((0.5,), {"x": (3,), "y": (3, 2)})
class Vmap:
    def program(loc):
        def lane(level):
            x = em.sample("x", dist.Normal(loc, 1.0))
            return em.sample("y", dist.Normal(x * level, 1.0).expand([2])) * x

        return jax.vmap(lane)(LEVELS)

    def density(c, loc):
        y = jnp.stack([normal(c["y"][i], c["x"][i] * LEVELS[i]) for i in range(3)])
        return {"x": normal(c["x"], loc), "y": y}


@row((0.5,), {"x": (3, 2)})
class NestedVmap:
    def program(loc):
        inner = jax.vmap(lambda level: em.sample("x", dist.Normal(loc + level, 1.0)))
        return jax.vmap(lambda scale: inner(scale * LEVELS[:2]))(LEVELS)

    def density(c, loc):
        return {"x": normal(c["x"], loc + LEVELS[:, None] * LEVELS[:2])}


@row((0.5,), {"x": (3,)})
class Scan:
    def program(loc):
        def step(state, level):
            state = em.sample("x", dist.Normal(0.5 * state + level, 1.0))
            return state, state**2

        return lax.scan(step, loc, LEVELS)

    def density(c, loc):
        before = [loc, c["x"][0], c["x"][1]]
        return {"x": jnp.stack([normal(c["x"][i], 0.5 * before[i] + LEVELS[i]) for i in range(3)])}


@row((0.5,), {"x": (3,)})
class ReverseScan:
    def program(loc):
        def step(state, level):
            state = em.sample("x", dist.Normal(0.5 * state + level, 1.0))
            return state, state**2

        return lax.scan(step, loc, LEVELS, reverse=True)

    def density(c, loc):
        before = [c["x"][1], c["x"][2], loc]
        return {"x": jnp.stack([normal(c["x"][i], 0.5 * before[i] + LEVELS[i]) for i in range(3)])}


@row((0.5,), {"x": (3, 2)})
class ScanOfVmap:
    def program(loc):
        def step(state, level):
            state = jax.vmap(lambda s: em.sample("x", dist.Normal(s + level, 1.0)))(state)
            return state, state

        return lax.scan(step, jnp.stack([loc, 2 * loc]), LEVELS)[1]

    def density(c, loc):
        before = jnp.concatenate([jnp.stack([loc, 2 * loc])[None], c["x"][:-1]])
        return {"x": normal(c["x"], before + LEVELS[:, None])}


@row((0.5,), {"x": (3, 2)})
class VmapOfScan:
    """Steps before lanes: its jaxpr is that of a scan of a vmap."""

    def program(loc):
        def chain(start):
            def step(state, level):
                state = em.sample("x", dist.Normal(state + level, 1.0))
                return state, state

            return lax.scan(step, start, LEVELS)[1]

        return jax.vmap(chain)(jnp.stack([loc, 2 * loc])).T

    density = ScanOfVmap.density


@row((0.5,), {"x": (3,)})
class Map:
    def program(loc):
        return lax.map(lambda level: em.sample("x", dist.Normal(loc * level, 1.0)), LEVELS)

    def density(c, loc):
        return {"x": normal(c["x"], loc * LEVELS)}


@row((0.5,), {"x": (4,)})
class ForiLoop:
    def program(loc):
        return lax.fori_loop(0, 4, lambda i, s: s + em.sample("x", dist.Normal(s, 1.0 + i)), loc)

    def density(c, loc):
        state, terms = loc, []
        for i in range(4):
            terms.append(normal(c["x"][i], state, 1.0 + i))
            state = state + c["x"][i]
        return {"x": jnp.stack(terms)}


@row((0.5,), {"b": (), "x": (), "y": ()})
class Cond:
    """`x` is one choice in two exclusive branches, `y` exists in one of them."""

    def program(loc):
        b = em.sample("b", dist.Bernoulli(0.5))

        def heads(u):
            x = em.sample("x", dist.Normal(u, 1.0))
            return x + em.sample("y", dist.Normal(x, 2.0))

        return lax.cond(b == 1, heads, lambda u: em.sample("x", dist.Normal(-u, 3.0)), loc)

    def density(c, loc):
        y = normal(c["y"], c["x"], 2.0) if c["b"] else 0.0
        x = normal(c["x"], loc, 1.0) if c["b"] else normal(c["x"], -loc, 3.0)
        return {"b": jnp.log(0.5), "x": x, "y": y}


@row((0.5,), {"z": (), "x": (), "w": (2,), "v": ()})
class Switch:
    def program(loc):
        z = em.sample("z", dist.Categorical(logits=jnp.stack([loc, 2 * loc, 0.0 * loc])))

        def with_x(u):
            return em.sample("x", dist.Normal(u, 1.0))

        def with_w(u):
            return em.sample("w", dist.Normal(u, 1.0).expand([2])).sum()

        def with_v(u):
            return em.sample("v", dist.Exponential(u))

        return lax.switch(z, [with_x, with_w, with_v], loc)

    def density(c, loc):
        terms = {
            "z": dist.Categorical(logits=jnp.stack([loc, 2 * loc, 0.0 * loc])).log_prob(c["z"]),
            "x": jnp.zeros(()),
            "w": jnp.zeros(2),
            "v": jnp.zeros(()),
        }
        taken = ("x", "w", "v")[int(c["z"])]
        law = dist.Exponential(loc) if taken == "v" else dist.Normal(loc, 1.0)
        return terms | {taken: law.log_prob(c[taken])}


@row((0.5,), {"x": (), "y": ()})
class JitAndCheckpoint:
    def program(loc):
        x = jax.jit(lambda u: em.sample("x", dist.Normal(u, 1.0)))(loc)
        return jax.checkpoint(lambda u: em.sample("y", dist.Normal(jnp.sin(u), 1.0)) ** 2)(x)

    def density(c, loc):
        return {"x": normal(c["x"], loc), "y": normal(c["y"], jnp.sin(c["x"]))}


@jax.custom_jvp
def custom(u):
    return em.sample("x", dist.Normal(u, 1.0))


custom.defjvp(lambda primals, tangents: (custom(*primals), tangents[0]))


@row((0.5,), {"x": (), "y": ()})
class CustomRule:
    def program(loc):
        return em.sample("y", dist.Normal(jax.nn.relu(custom(loc)), 1.0))

    def density(c, loc):
        return {"x": normal(c["x"], loc), "y": normal(c["y"], jnp.maximum(c["x"], 0.0))}


@jax.jit
def helper(u):
    return em.sample("x", dist.Normal(u, 1.0))


@row((0.5,), {"a/x": (), "b/x": (), "b/c/x": ()})
class Scopes:
    """One jitted helper, traced once: its site still has three addresses."""

    def program(loc):
        with em.scope("a"):
            first = helper(loc)
        with em.scope("b"):
            second = helper(loc)
            with em.scope("c"):
                return first + second + helper(first)

    def density(c, loc):
        return {
            "a/x": normal(c["a"]["x"], loc),
            "b/x": normal(c["b"]["x"], loc),
            "b/c/x": normal(c["b"]["c"]["x"], c["a"]["x"]),
        }


@row((0.5,), {"s/x": (3, 2), "s/y": (3,)})
class ScopeAroundALoop:
    def program(loc):
        def step(state, level):
            x = em.sample("x", dist.Normal(state, 1.0).expand([2]))
            state = lax.cond(
                level > 0, lambda: em.sample("y", dist.Normal(x[0], 1.0)), lambda: state
            )
            return state, None

        with em.scope("s"):
            return lax.scan(step, loc, LEVELS)[0]

    def density(c, loc):
        state, xs, ys = loc, [], []
        for i in range(3):
            xs.append(normal(c["s"]["x"][i], state))
            taken = LEVELS[i] > 0
            ys.append(normal(c["s"]["y"][i], c["s"]["x"][i, 0]) if taken else 0.0)
            state = c["s"]["y"][i] if taken else state
        return {"s/x": jnp.stack(xs), "s/y": jnp.stack(ys)}


@em.gen
def part(u):
    return em.sample("x", dist.Normal(u, 1.0))


@row((0.5,), {"a/x": (3,), "x": ()})
class Inlined:
    def program(loc):
        with em.scope("a"):
            total = jax.vmap(part)(LEVELS).sum()
        return total + part(loc)

    def density(c, loc):
        return {"a/x": normal(c["a"]["x"], LEVELS), "x": normal(c["x"], loc)}
