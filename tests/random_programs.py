"""Small random programs, every instruction written twice: with sites, and for brute force.

A program is a straight list of instructions over an environment of values, each a scalar or a
plate of two lanes. An instruction reads earlier values by position and appends its own.
Whatever nobody reads is a term of the objective.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from hypothesis import assume
from hypothesis import strategies as st
from jax import lax

import estimand as em
from tests.oracle import sigmoid, softmax

THETA = (0.35, -0.6)
CONSTANT, SLOPES, MEMORY, THRESHOLD = (0.5, -1.0), (1.0, -0.5, 0.2), (0.4, -0.7, 0.9), 0.437
SCALAR, PLATE = (), (2,)
VIA = {
    "default": None,
    "score": em.Score(),
    "baseline": em.Score(baseline=0.7),
    "enumerate": em.Enumerate(),
    "measure": em.MeasureValued(),
}
OTHERS = {  # for flips and for picks, where they differ
    "default": (em.Rebar(), em.LeaveOneOut(3)),
    "score": em.Relax(),
    "baseline": em.Score(em.MovingAverage()),
    "enumerate": (em.DisArm(), em.WithoutReplacement(2)),
    "measure": em.Vimco(),
}
ONE_POINT = ("score", "baseline")
OPERATIONS = {  # by kind and name: in JAX and in numpy
    "unary": {
        "sin": (jnp.sin, np.sin),
        "tanh": (jnp.tanh, np.tanh),
        "relu": (lambda x: jax.nn.relu(x - 0.213), lambda x: np.maximum(x - 0.213, 0.0)),
        "square": (lambda x: 0.5 * x**2, lambda x: 0.5 * x**2),
        "scale": (lambda x: -1.5 * x, lambda x: -1.5 * x),
    },
    "binary": {
        "add": (jnp.add, np.add),
        "subtract": (jnp.subtract, np.subtract),
        "multiply": (jnp.multiply, np.multiply),
        "logaddexp": (jnp.logaddexp, np.logaddexp),
    },
    "reduce": {
        "sum": (jnp.sum, np.sum),
        "dot": (lambda x: jnp.dot(x, jnp.array(CONSTANT, x.dtype)), lambda x: x @ CONSTANT),
        "logsumexp": (jax.nn.logsumexp, np.logaddexp.reduce),
        "product": (jnp.prod, np.prod),
        "last": (lambda x: x[1], lambda x: x[1]),
    },
    "shuffle": {
        "flip": (lambda x: x[::-1], lambda x: x[::-1]),
        "cumsum": (jnp.cumsum, np.cumsum),
        "softmax": (jax.nn.softmax, softmax),
    },
}


def flip(p, via):
    return em.draw(dist.Bernoulli(probs=p), via=via).astype(float)


def chosen(vias, name, picks=False):
    found = vias[name]
    return found[picks] if isinstance(found, tuple) else found


def flips(world, p):
    """One flip for each element of p."""
    return np.array([world.flip(each) for each in np.ravel(p)]).reshape(np.shape(p))


@dataclasses.dataclass(frozen=True)
class Apply:
    """A deterministic function of one or two values."""

    kind: str
    op: str
    of: tuple

    def program(self, env, vias):
        return [OPERATIONS[self.kind][self.op][0](*(env[i] for i in self.of))]

    def exact(self, env, world):
        return [OPERATIONS[self.kind][self.op][1](*(env[i] for i in self.of))]


@dataclasses.dataclass(frozen=True)
class Flip:
    """A Bernoulli site whose logit is a value; a plate is a `vmap` or the distribution's own
    batch.
    """

    of: tuple
    via: str
    vmapped: bool

    def program(self, env, vias):
        def site(logit):
            return flip(jax.nn.sigmoid(logit), chosen(vias, self.via))

        (logit,) = (env[i] for i in self.of)
        return [jax.vmap(site)(logit) if self.vmapped and logit.shape else site(logit)]

    def exact(self, env, world):
        return [flips(world, sigmoid(env[self.of[0]]))]


@dataclasses.dataclass(frozen=True)
class Pick:
    """A Categorical site of three states, gathered from a memory that depends on theta."""

    of: tuple
    via: str
    vmapped: bool

    def program(self, env, vias):
        def site(value):
            logits = value[..., None] * jnp.array(SLOPES, value.dtype)
            return em.draw(dist.Categorical(logits=logits), via=chosen(vias, self.via, True))

        (value,) = (env[i] for i in self.of)
        memory = jnp.array(MEMORY, value.dtype) + env[0]
        return [memory[jax.vmap(site)(value) if self.vmapped and value.shape else site(value)]]

    def exact(self, env, world):
        value = env[self.of[0]]
        memory = np.array(MEMORY) + env[0]
        each = [memory[world.categorical(softmax(v * np.array(SLOPES)))] for v in np.ravel(value)]
        return [np.array(each).reshape(np.shape(value))]


@dataclasses.dataclass(frozen=True)
class Scan:
    """A loop with a site in it, over a scalar or, by `vmap`, over two lanes: final carry and
    sum of costs.
    """

    of: tuple
    via: str
    steps: int
    reverse: bool
    in_carry: bool

    def program(self, env, vias):
        def body(carry, weight):
            state, loss = carry
            x = flip(jax.nn.sigmoid(state + weight), chosen(vias, self.via))
            state = 0.5 * state + x
            cost = jnp.sin(state) * x
            return (state, loss + cost if self.in_carry else loss), cost

        def loop(state):
            weights = jnp.array(MEMORY[: self.steps], state.dtype)
            start = (state, jnp.zeros_like(state))
            (state, loss), costs = lax.scan(body, start, weights, reverse=self.reverse)
            return state, loss if self.in_carry else costs.sum()

        (state,) = (env[i] for i in self.of)
        return list((jax.vmap(loop) if state.shape else loop)(state))

    def exact(self, env, world):
        state = env[self.of[0]]
        loss = np.zeros(np.shape(state))
        for weight in MEMORY[: self.steps][:: -1 if self.reverse else 1]:
            x = flips(world, sigmoid(state + weight))
            state = 0.5 * state + x
            loss = loss + np.sin(state) * x
        return [state, loss]


@dataclasses.dataclass(frozen=True)
class Cond:
    """A branch with a site in it, on a site or on a parameter; over two lanes it is a `vmap` of
    a branch.
    """

    of: tuple
    via: str

    def program(self, env, vias):
        def branch(on, value):
            def taken(v):
                x = flip(jax.nn.sigmoid(v), chosen(vias, self.via))
                return x * v + x

            return lax.cond(on > THRESHOLD, taken, jnp.sin, value)

        on, value = (env[i] for i in self.of)
        return [(jax.vmap(branch) if value.shape else branch)(on, value)]

    def exact(self, env, world):
        def branch(on, value):
            if on <= THRESHOLD:
                return np.sin(value)
            x = world.flip(sigmoid(value))
            return x * value + x

        on, value = (env[i] for i in self.of)
        each = [branch(*pair) for pair in zip(np.ravel(on), np.ravel(value), strict=True)]
        return [np.array(each).reshape(np.shape(value))]


@dataclasses.dataclass(frozen=True)
class Program:
    """Instructions, and with them an objective and its exact meaning."""

    instructions: tuple

    def objective(self, vias=VIA):
        def objective(t):
            env = [t[0], t[1], jnp.array(CONSTANT, t.dtype), jnp.stack([t[0], 2 * t[1]])]
            for instruction in self.instructions:
                env += instruction.program(env, vias)
            return sum(env[i].sum() for i in self.terms(len(env)))

        return em.expectation(objective)

    def exact(self, world, t):
        env = [t[0], t[1], np.array(CONSTANT), np.array([t[0], 2 * t[1]])]
        for instruction in self.instructions:
            env += instruction.exact(env, world)
        return sum(np.sum(env[i]) for i in self.terms(len(env)))

    def terms(self, size):
        read = {i for instruction in self.instructions for i in instruction.of}
        return [i for i in range(4, size) if i not in read]

    def sites(self):
        return [each for each in self.instructions if not isinstance(each, Apply)]

    def may_be_refused(self):
        """Whether a multi-point site has lanes or steps (that may be mixed) or sits in a branch."""
        many = [each for each in self.sites() if each.via not in ONE_POINT]
        return any(isinstance(each, Scan | Cond) for each in many) or any(
            each.of[0] in self.plates() for each in many
        )

    def branches(self):
        return any(isinstance(each, Cond) for each in self.instructions)

    def plates(self):
        """Positions of the values that have two lanes."""
        shapes = [SCALAR, SCALAR, PLATE, PLATE]
        for instruction in self.instructions:
            shapes += result_shapes(instruction, shapes)
        return {i for i, shape in enumerate(shapes) if shape == PLATE}


def result_shapes(instruction, shapes):
    operands = [shapes[i] for i in instruction.of]
    if isinstance(instruction, Apply) and instruction.kind == "reduce":
        return [SCALAR]
    return [max(operands)] * (2 if isinstance(instruction, Scan) else 1)


def paths(instruction, shapes):
    """How many ways the sites of an instruction can come out."""
    lanes = 2 if PLATE in [shapes[i] for i in instruction.of] else 1
    each = {Apply: 1, Flip: 2, Pick: 3, Cond: 2}.get(type(instruction)) or 2**instruction.steps
    return each**lanes


@st.composite
def programs(draw, most_paths=400):
    """Programs of two to five instructions with sites, and arithmetic between them."""
    shapes, instructions, total = [SCALAR, SCALAR, PLATE, PLATE], [], 1
    sites = draw(st.integers(2, 5))
    while sites > 0 and len(instructions) < 12:
        instruction = draw(_instruction(shapes))
        if total * paths(instruction, shapes) > most_paths:
            sites -= 1
            continue
        total *= paths(instruction, shapes)
        sites -= not isinstance(instruction, Apply)
        instructions.append(instruction)
        shapes += result_shapes(instruction, shapes)
    program = Program(tuple(instructions))
    assume(len(program.sites()) >= 2)
    return program


@st.composite
def _instruction(draw, shapes):
    def value(*allowed):
        """A value of an allowed shape, more often a late one."""
        found = [i for i, shape in enumerate(shapes) if shape in allowed]
        return draw(st.sampled_from(found[-3:] + found[-1:]))

    via = draw(st.sampled_from(sorted(VIA)))
    kind = draw(st.sampled_from((*OPERATIONS, Flip, Flip, Pick, Scan, Cond)))
    if kind is Flip or kind is Pick:
        return kind((value(SCALAR, PLATE),), via, draw(st.booleans()))
    if kind is Scan:
        steps, reverse, in_carry = draw(st.integers(2, 3)), draw(st.booleans()), draw(st.booleans())
        return Scan((value(SCALAR, PLATE),), via, steps, reverse, in_carry)
    if kind is Cond:
        shape = draw(st.sampled_from((SCALAR, SCALAR, PLATE)))
        via = draw(st.sampled_from(("default", *ONE_POINT, via)))  # several points are refused
        return Cond((value(shape), value(shape)), via)
    allowed = (SCALAR, PLATE) if kind in ("unary", "binary") else (PLATE,)
    operands = tuple(value(*allowed) for _ in range(2 if kind == "binary" else 1))
    return Apply(kind, draw(st.sampled_from(sorted(OPERATIONS[kind]))), operands)
