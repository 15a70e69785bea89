"""How a test decides that an estimator is unbiased, without ever failing by chance.

Keys are fixed, and the rule has two halves: the mean lies within 5 standard errors of the exact
answer, *and* 8 standard errors are less than the smallest bias worth catching. A test that
cannot see that bias fails too, by the second half.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

REJECT, RESOLVE = 5.0, 8.0
ROUNDING = 1e-4  # of 1 + |exact|: float32 arithmetic, where an estimator has no variance at all


def assert_unbiased(samples, exact, min_bias):
    """Every leaf of `samples` [n, ...] has the mean `exact` [...], and a bias of `min_bias`
    would have been seen.

    `samples` and `exact` are pytrees of one structure; `min_bias` is a number, for all of it.
    """
    for path, sample, truth in _leaves(samples, exact):
        mean, error, rounding = _summary(sample, truth)
        power = RESOLVE * error + rounding
        assert np.all(power < min_bias), (
            f"{path}: a bias of {min_bias} cannot be seen with {len(sample)} samples: "
            f"it takes {np.max(power):.3g}."
        )
        excess = np.abs(mean - truth) - (REJECT * error + rounding)
        assert np.all(excess < 0), (
            f"{path}: the mean is {mean}, the exact answer {truth}, a standard error {error}."
        )


def assert_exact(samples, exact):
    """Every single sample is the exact answer: no bias, and no variance."""
    for path, sample, truth in _leaves(samples, exact):
        worst = np.max(np.abs(sample - truth) / (1.0 + np.abs(truth)))
        assert worst < ROUNDING, (
            f"{path}: a sample is off by {worst:.3g} (relative); the exact answer is {truth}."
        )


def needed(samples, exact, min_bias):
    """How many samples like these `assert_unbiased` takes to see a bias of `min_bias`."""
    worst = 0.0
    for _, sample, truth in _leaves(samples, exact):
        _, error, rounding = _summary(sample, truth)
        worst = max(worst, np.max(RESOLVE * error / (min_bias - rounding)))
    return int(np.ceil(len(sample) * worst**2)) + 1


def scale(exact):
    """The size of an answer: the largest of 1 and of its entries."""
    return max([1.0, *(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(exact))])


def draws(objective, n, *args, seed=0, argnums=0):
    """`n` independent estimates of the value [n] and of the gradient [n, ...]."""
    return _sampler(objective, args, argnums)(keys(n, seed), *args)


def enough_draws(objective, exact, min_bias, *args, batch=2**12, most=2**20):
    """As many draws as `assert_unbiased` needs to see a bias of `min_bias`, compiled once.

    A first batch underestimates a heavy tail, so the number is foreseen anew from all draws so
    far. It follows their spread and not their mean; a biased estimator gains nothing from it.
    """
    sampler = _sampler(objective, args, 0)
    return enough(lambda keys: sampler(keys, *args), exact, min_bias, batch, most)


def enough(sampler, exact, min_bias, batch=2**12, most=2**20):
    """The same of samples by key."""
    samples = sampler(keys(batch))
    while (drawn := _size(samples)) < (enough := min(needed(samples, exact, min_bias), most)):
        seeds = range(drawn // batch, int(1.2 * enough) // batch + 1)
        parts = [samples, *(sampler(keys(batch, seed)) for seed in seeds)]
        samples = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return samples


@dataclasses.dataclass(frozen=True)
class Relative:
    """An objective whose estimates are divided by exact answers, so that all of those are one.

    One number is then the smallest bias worth catching of each.
    """

    objective: object
    answer: tuple  # of arrays

    def init(self, key, t):
        return self.objective.init(key, t)

    def value_and_grad(self, key, t, argnums=0, state=None):
        answer = tuple(jnp.asarray(a, t.dtype) for a in self.answer)
        found, state = self.objective.value_and_grad(key, t, argnums=argnums, state=state)
        return jax.tree.map(jnp.divide, found, answer), state


def assert_unbiased_to(objective, answer, bias, theta):
    """Value and gradient are unbiased; a bias of this part of any entry would have been seen."""
    ones = jax.tree.map(np.ones_like, answer)
    found = enough_draws(Relative(objective, answer), ones, bias, theta)
    assert_unbiased(found, ones, bias)


def _size(samples):
    return len(jax.tree.leaves(samples)[0])


def _sampler(objective, args, argnums):
    """Of the value and gradient, at a fixed state of the strategies that have one."""
    state = jax.tree.map(elsewhere, objective.init(jax.random.key(17), *args))

    def one(key, *args):
        return objective.value_and_grad(key, *args, argnums=argnums, state=state)[0]

    in_axes = (0,) + (None,) * len(args)
    return jax.jit(jax.vmap(one, in_axes), compiler_options={"xla_backend_optimization_level": 0})


def elsewhere(x):
    """Away from where training starts: an estimator is unbiased at every state."""
    return x + 0.05 if np.issubdtype(x.dtype, np.inexact) else x


def gradients(objective, n, *args, seed=0, argnums=0):
    """`n` independent estimates of the gradient [n, ...]."""
    return draws(objective, n, *args, seed=seed, argnums=argnums)[1]


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def _leaves(samples, exact):
    found, structure = jax.tree_util.tree_flatten_with_path(samples)
    truths = structure.flatten_up_to(exact)
    for (path, sample), truth in zip(found, truths, strict=True):
        sample, truth = np.asarray(sample, np.float64), np.asarray(truth, np.float64)
        assert sample.shape[1:] == truth.shape, (
            f"samples of shape {sample.shape[1:]}, an answer of {truth.shape}"
        )
        yield jax.tree_util.keystr(path) or "the sample", sample, truth


def _summary(sample, truth):
    error = sample.std(axis=0, ddof=1) / np.sqrt(len(sample))
    return sample.mean(axis=0), error, ROUNDING * (1.0 + np.abs(truth))
