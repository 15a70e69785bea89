"""Estimators with one mistake in each: the test that the right ones pass sees it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import estimand as em
from estimand.estimators.score import ratio
from tests.statistics import assert_unbiased, enough

T = jnp.array([0.3, -0.8])
UNOPTIMIZED = {"xla_backend_optimization_level": 0}
MIN_BIAS = 0.1


def meeting(via):
    @em.expectation
    def objective(t):
        x = em.draw(dist.Bernoulli(logits=t), via=via).astype(float)
        return (1.0 + x[0]) * (1.0 + 2.0 * x[1]) + x[0] ** 2 * t[1]

    return objective


@dataclasses.dataclass(frozen=True)
class LeaveNoneOut(em.LeaveOneOut):
    """Each draw against the mean of all, itself included."""

    def combine(self, law, values, f):
        rho = ratio(jax.vmap(law.log_prob)(values)).astype(f.dtype)
        return jnp.mean(f * rho + jax.lax.stop_gradient(jnp.mean(f, axis=0)) * (1 - rho), axis=0)


@dataclasses.dataclass(frozen=True)
class VimcoOfItself(em.Vimco):
    """A lane's baseline has the lane's own draw in it."""

    def combine(self, law, values, f):
        if f.ndim > len(law.batch_shape):
            f = f.at[1:].set(0.5 * (f[1:] + f[:1]))
        return super().combine(law, values, f)


@dataclasses.dataclass(frozen=True)
class DisArmTooLarge(em.DisArm):
    """A weight that is a quarter too large."""

    def combine(self, law, values, f):
        mean = jnp.mean(f, axis=0)
        return mean + 1.25 * (super().combine(law, values, f) - mean)


@dataclasses.dataclass(frozen=True)
class RebarWithoutItsPath(em.Rebar):
    """What is added back is not differentiated."""

    def combine(self, law, values, f):
        return super().combine(law, values, f.at[1].set(jax.lax.stop_gradient(f[1])))


@dataclasses.dataclass(frozen=True)
class RelaxWithoutItsScore(em.Relax):
    """The conditional noise is treated as if its law did not depend on the draw."""

    def control(self, law, values):
        fixed = dataclasses.replace(law, leaves=jax.lax.stop_gradient(law.leaves))
        return super().control(fixed, values)


TWINS = [
    (em.LeaveOneOut(2), LeaveNoneOut(2)),
    (em.Vimco(), VimcoOfItself()),
    (em.DisArm(), DisArmTooLarge()),
    (em.Rebar(), RebarWithoutItsPath()),
    (em.Relax(), RelaxWithoutItsScore()),
]


def samples_and_answer(via):
    objective = meeting(via)
    state = objective.init(jax.random.key(0), T)
    state = jax.tree.map(lambda x: x + 0.5 if np.issubdtype(x.dtype, np.inexact) else x, state)
    answer = meeting(em.Enumerate()).value_and_grad(jax.random.key(0), T)
    answer = jax.tree.map(np.asarray, answer)
    surrogate = jax.value_and_grad(lambda t, key: objective.surrogate(key, t, state=state))
    sampler = jax.jit(jax.vmap(surrogate, (None, 0)), compiler_options=UNOPTIMIZED)
    return enough(lambda keys: sampler(T, keys), answer, MIN_BIAS), answer


@pytest.mark.parametrize("right, wrong", TWINS, ids=lambda via: type(via).__name__)
def test_a_mistake_in_an_estimator_is_seen(right, wrong):
    assert_unbiased(*samples_and_answer(right), MIN_BIAS)
    with pytest.raises(AssertionError, match="the mean is"):
        assert_unbiased(*samples_and_answer(wrong), MIN_BIAS)
