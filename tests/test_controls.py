"""Control variates after other sites, and what a strategy may return."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from tests.marks import by_default
from tests.messages import check_message
from tests.statistics import assert_unbiased, elsewhere, enough, keys, scale

KEY = jax.random.key(0)
T = jnp.array([0.3, -0.4, 0.6])
UNOPTIMIZED = {"xla_backend_optimization_level": 0}
WITH_CONTROLS = {
    "a constant": em.Score(1.5),
    "an average": em.Score(em.MovingAverage()),
    "a network": em.Score(em.LearnedBaseline()),
    "Relax": em.Relax(),
}


def after_others(via, parent):
    """A flip whose law depends on an earlier flip, an enumerated choice and a normal draw."""

    @em.expectation
    def objective(t):
        a = em.sample("a", dist.Bernoulli(logits=t[0]), via=parent).astype(float)
        b = em.sample("b", dist.Categorical(logits=t)).astype(float)
        z = em.sample("z", dist.Normal(t[2], 0.5))
        logits = jnp.stack([t[1] + a - 0.5 * b, z])
        y = em.sample("y", dist.Bernoulli(logits=logits), via=via).astype(float)
        return (1.0 + a + y[0] * b) * (1.0 + y[1] * t[0])

    return objective


def exact(t):
    """By enumeration, with the normal draw's mean by a Gauss-Hermite rule."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    q = jax.nn.sigmoid(t[2] + 0.5 * jnp.asarray(nodes, t.dtype))
    second = 1.0 + (q @ jnp.asarray(weights / weights.sum(), t.dtype)) * t[0]
    p, choice = jax.nn.sigmoid(t[0]), jax.nn.softmax(t)
    first = sum(
        weight * choice[b] * (1.0 + a + b * jax.nn.sigmoid(t[1] + a - 0.5 * b))
        for a, weight in enumerate((1 - p, p))
        for b in range(3)
    )
    return first * second


def derivatives(objective, state, t, key):
    surrogate = lambda t: objective.surrogate(key, t, state=state)  # noqa: E731
    return (*jax.value_and_grad(surrogate)(t), jax.hessian(surrogate)(t))


PARENTS = {"Score": em.Score(), "LeaveOneOut": em.LeaveOneOut(2)}
PAIRS = [("Score", name) for name in WITH_CONTROLS] + [("LeaveOneOut", "Relax")]


@pytest.mark.parametrize(
    "parent, name", by_default(PAIRS, ("Score", "an average"), ("LeaveOneOut", "Relax"))
)
def test_a_control_after_other_sites_is_unbiased_at_every_order(parent, name):
    objective = after_others(WITH_CONTROLS[name], PARENTS[parent])
    state = jax.tree.map(elsewhere, objective.init(KEY, T))
    answer = (exact(T), jax.grad(exact)(T), jax.hessian(exact)(T))
    sampler = jax.vmap(lambda key: derivatives(objective, state, T, key))
    sampler = jax.jit(sampler, compiler_options=UNOPTIMIZED)
    min_bias = 0.1 * scale(answer)
    assert_unbiased(enough(sampler, answer, min_bias), answer, min_bias)


def test_an_earlier_site_is_not_credited_with_a_control():
    """The derivative in the parameters of the earlier site alone does not see what it is."""

    @em.expectation
    def objective(t):
        x = em.sample("x", dist.Bernoulli(logits=t[0]), via=em.Score()).astype(float)
        y = em.sample("y", dist.Bernoulli(logits=t[1] + x), via=em.Relax()).astype(float)
        return y + x

    fresh = objective.init(KEY, T)
    moved = jax.tree.map(elsewhere, fresh)
    slopes = jax.vmap(lambda key, s: jax.grad(objective.surrogate, 1)(key, T, state=s), (0, None))
    before, after = (jax.jit(slopes)(keys(4), state) for state in (fresh, moved))
    np.testing.assert_allclose(before[:, 0], after[:, 0], rtol=1e-5)
    assert not np.allclose(before[:, 1], after[:, 1], rtol=1e-2)


def test_an_average_learns_nothing_where_its_site_is_not_drawn():
    via = em.Score(em.MovingAverage())

    @em.expectation
    def branches(t):
        def drawn():
            x = em.sample("x", dist.Bernoulli(jnp.full(2, 0.5)), via=via)
            return jnp.sum(x.astype(float)) + t

        return lax.cond(t > 0, drawn, lambda: 100.0 + t)

    state = branches.init(KEY, 1.0)
    _, state = branches.value_and_grad(KEY, 1.0, state=state)
    _, after = branches.value_and_grad(KEY, -1.0, state=state)
    np.testing.assert_array_equal(after.learned["x"], state.learned["x"])
    _, after = branches.value_and_grad(KEY, 2.0, state=state)
    assert np.any(after.learned["x"] != state.learned["x"])


@dataclasses.dataclass(frozen=True)
class Misshapen(em.Score):
    """A score one of whose methods returns a single number for all lanes."""

    method: str = ""

    def points(self, key, law):
        return self._as_asked("points", super().points(key, law))

    def combine(self, law, values, f):
        return self._as_asked("combine", super().combine(law, values, f))

    def control(self, law, values):
        return self._as_asked("control", 0.0 * law.log_density(values))

    def _as_asked(self, method, x):
        return jnp.max(x) if method == self.method else x


def in_a_vmap(via):
    def lane(t):
        return em.sample("x", dist.Bernoulli(logits=t), via=via).astype(float) * t

    return em.expectation(lambda t: jnp.sum(jax.vmap(lane)(t)))


def in_a_scan(via):
    def step(total, t):
        x = em.sample("x", dist.Bernoulli(logits=t + jnp.zeros(2)), via=via).astype(float)
        return total + x @ jnp.array([1.0, 2.0], x.dtype), None

    return em.expectation(lambda t: lax.scan(step, jnp.zeros((), t.dtype), t)[0])


@pytest.mark.parametrize("method", ["points", "combine", "control"])
@pytest.mark.parametrize("context", [in_a_vmap, in_a_scan])
def test_what_a_strategy_returns_is_not_broadcast(context, method):
    context(Misshapen()).grad(KEY, T)
    name = f"contract: {method} {context.__name__.replace('_', ' ')}"
    check_message(name, context(Misshapen(method=method)).grad, KEY, T)


@dataclasses.dataclass(frozen=True)
class Miscounted(em.LeaveOneOut):
    """Says two points, and gives three."""

    def points(self, key, law):
        return em.LeaveOneOut(3).points(key, law)


def test_the_points_are_as_many_as_were_counted():
    check_message("contract: more points", in_a_vmap(Miscounted()).grad, KEY, T)
