"""Training: a run is a function of its arguments, however it is cut, and it stops in time."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import estimand as em
from tests.marks import by_default

ROWS = 10
DATA = (np.linspace(0.0, 1.0, ROWS), np.arange(ROWS))
START = {"mean": 0.0, "log_scale": np.zeros(2)}
ADAM = optax.adam(0.05)


@em.expectation
def spread(params, batch, shift):
    x, _ = batch
    z = em.draw(dist.Normal(params["mean"], jnp.exp(params["log_scale"])).to_event(1))
    return jnp.mean((z[None] - x[:, None] - shift) ** 2)


def run(steps, **changes):
    settings = dict(key=jax.random.key(1), steps=steps, args=(0.5,), data=DATA, batch_size=3)
    settings |= dict(num_samples=2, progress=False) | changes
    return em.minimize(spread, START, ADAM, **settings)


@functools.cache
def whole():
    """The run that the others are compared with, of 24 steps: eight epochs."""
    return run(24)


def assert_same(a, b):
    """Bit for bit, keys included."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@em.expectation
def quadratic(x):
    return jnp.sum((em.draw(dist.Normal(x, 0.1)) - 3.0) ** 2)


@pytest.mark.legs
def test_training_finds_the_optimum():
    schedule = optax.cosine_decay_schedule(0.1, 1_000)
    fit = em.minimize(
        quadratic, 0.0, optax.adam(schedule), key=jax.random.key(0), steps=1_000, progress=False
    )
    assert abs(fit.params - 3.0) < 0.02
    assert fit.step == 1_000
    assert fit.history.shape == (1_000,)
    assert fit.history[0] > 5.0 and np.mean(fit.history[-100:]) < 0.02


def test_maximize_is_minimize_of_the_negative():
    @em.expectation
    def negative(x):
        return -quadratic(x)

    settings = dict(key=jax.random.key(0), steps=20, progress=False)
    down = em.minimize(quadratic, 0.0, ADAM, **settings)
    up = em.maximize(negative, 0.0, ADAM, **settings)
    assert_same(up._replace(history=-up.history), down)


@pytest.mark.legs
def test_a_run_in_pieces_is_the_run():
    assert_same(run(15, resume=run(8, resume=run(1))), whole())


def test_a_run_continues_from_its_file(tmp_path):
    em.save(tmp_path / "fit.npz", run(10))
    loaded = em.load(tmp_path / "fit.npz", like=run(0)._replace(history=...))
    assert_same(run(14, resume=loaded), whole())


def test_steps_one_at_a_time_are_the_steps_of_a_chunk():
    seen = []
    fit = run(24, callback=lambda *now: seen.append(now))
    assert_same(fit, whole())
    assert [step for step, _, _ in seen] == list(range(1, 25))
    np.testing.assert_array_equal([value for _, value, _ in seen], fit.history)
    assert_same(seen[9][2], run(10).params)


def test_a_callback_that_returns_true_stops():
    assert_same(run(24, callback=lambda step, value, params: step == 10), run(10))


def test_keys_of_either_kind():
    legacy = run(24, key=jax.random.PRNGKey(1))
    assert_same(legacy.params, whole().params)
    assert legacy.key.dtype == jnp.uint32
    assert np.any(run(24, key=jax.random.key(2)).history != whole().history)


def test_the_parameters_given_stay_usable():
    params = {"mean": jnp.array(0.0), "log_scale": jnp.zeros(2)}
    settings = dict(key=jax.random.key(1), args=(0.5,), data=DATA, progress=False)
    em.minimize(spread, params, ADAM, steps=2, **settings)
    assert_same(params, {"mean": jnp.array(0.0), "log_scale": jnp.zeros(2)})


# Batches


@em.expectation
def fingerprint(params, rows):
    """Tells by its value which rows it was given."""
    return 0.0 * params + jnp.sum(2.0 ** rows.astype(float))


def batches(steps, **changes):
    settings = dict(key=jax.random.key(0), data=np.arange(ROWS), batch_size=3, progress=False)
    fit = em.minimize(fingerprint, 0.0, ADAM, steps=steps, **settings | changes)
    return [{i for i in range(ROWS) if int(value) >> i & 1} for value in fit.history]


@pytest.mark.legs
def test_an_epoch_is_a_permutation_cut_to_whole_batches():
    drawn = batches(30)
    assert all(len(batch) == 3 for batch in drawn)
    epochs = [drawn[i : i + 3] for i in range(0, 30, 3)]
    assert all(len(set().union(*epoch)) == 9 for epoch in epochs)
    left_out = {min(set(range(ROWS)) - set().union(*epoch)) for epoch in epochs}
    assert len(left_out) > 3, "every epoch has a permutation of its own"


def test_a_batch_of_all_rows():
    assert batches(4, batch_size=ROWS) == batches(4, batch_size=None) == [set(range(ROWS))] * 4


def test_rows_of_a_tree_stay_together():
    @em.expectation
    def mismatch(params, batch):
        return 0.0 * params + jnp.sum(jnp.abs(batch["x"] - 2.0 * batch["i"].astype(float)))

    data = {"i": np.arange(ROWS), "x": 2.0 * np.arange(ROWS, dtype=float)}
    fit = em.minimize(
        mismatch, 0.0, ADAM, key=jax.random.key(0), steps=9, data=data, batch_size=2, progress=False
    )
    assert np.all(fit.history == 0.0)


@pytest.mark.legs
def test_rows_on_several_devices():
    auto = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(auto,))
    rows = jax.NamedSharding(mesh, jax.P("rows"))
    spread_out = jax.device_put(jax.tree.map(jnp.asarray, DATA), rows)
    assert len(spread_out[0].sharding.device_set) == jax.device_count()
    fit = run(8, data=spread_out, batch_size=4)
    np.testing.assert_allclose(fit.history, run(8, batch_size=4).history, rtol=1e-5)


# What is trained, and with what


def test_an_equinox_module_is_trained_in_its_floating_leaves():
    class Net(eqx.Module):
        layer: eqx.nn.Linear
        count: jax.Array
        activation: object
        depth: int

    net = Net(eqx.nn.Linear(2, 1, key=jax.random.key(0)), jnp.array(5), jnp.tanh, 2)

    @em.expectation
    def loss(net, x):
        assert isinstance(net.depth, int) and net.activation is jnp.tanh
        noisy = em.draw(dist.Normal(net.activation(net.layer(x)), 0.1))
        return jnp.sum((noisy - 0.5) ** 2) + 0.0 * net.count.astype(float)

    x = jnp.array([1.0, -1.0])
    settings = dict(key=jax.random.key(0), args=(x,), progress=False)
    fit = em.minimize(loss, net, ADAM, steps=200, **settings)
    assert fit.params.depth == 2 and fit.params.activation is jnp.tanh and fit.params.count == 5
    assert abs(jnp.tanh(fit.params.layer(x))[0] - 0.5) < 0.05
    assert abs(jnp.tanh(net.layer(x))[0] - 0.5) > 0.05, "the module given has not changed"


def test_arguments_that_are_no_arrays_stay_as_they_are():
    @em.expectation
    def loss(x, n, names):
        return (em.draw(dist.Normal(x, 1.0).expand([n])) ** len(names)).mean()

    settings = dict(key=jax.random.key(0), steps=5, progress=False)
    assert em.minimize(loss, 1.0, ADAM, args=(3, ("a", "b")), **settings).step == 5


OPTIMIZERS = {
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "noise with a key": optax.chain(optax.add_noise(0.01, 0.5, 0), optax.sgd(0.1)),
    "by label": optax.partition(
        {"a": optax.adam(0.1), "b": optax.set_to_zero()}, {"mean": "a", "log_scale": "b"}
    ),
    "plateau, which sees the value": optax.chain(
        optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=3)
    ),
    "line search": optax.lbfgs(),
    "every third step": optax.MultiSteps(optax.adam(0.1), 3).gradient_transformation(),
}


class Plain:
    """A stand-in for an objective, quick to compile: a distance, with noise."""

    def init(self, key, params):
        return ()

    def estimate(self, key, params, *, num_samples, argnums=0, state=None):
        noise = jax.random.normal(key, (num_samples, 2)).mean(0)
        return jnp.sum((params["log_scale"] - 1.0 + noise) ** 2) + (params["mean"] - 2.0) ** 2

    def value_and_grad(self, key, params, *, num_samples, state):
        estimate = jax.value_and_grad(self.estimate, 1)
        return estimate(key, params, num_samples=num_samples), state


@pytest.mark.parametrize(
    "name", by_default(list(OPTIMIZERS), "noise with a key", "plateau, which sees the value")
)
def test_any_optimizer_of_optax(name):
    def fit(steps, **more):
        settings = dict(key=jax.random.key(1), progress=False)
        return em.minimize(Plain(), START, OPTIMIZERS[name], steps=steps, **settings, **more)

    whole = fit(8)
    assert np.all(np.isfinite(whole.history)) and whole.params["mean"] > 0.0
    assert_same(fit(3, resume=fit(5)), whole)


def test_complex_parameters_go_down_in_both_parts():
    @em.expectation
    def distance(z):
        return jnp.abs(z - (1 + 1j)) ** 2 + 0.0 * em.draw(dist.Normal(0.0, 1.0))

    settings = dict(key=jax.random.key(0), steps=60, progress=False)
    fit = em.minimize(distance, 0.5 + 0.5j, optax.sgd(0.1), **settings)
    np.testing.assert_allclose(fit.params, 1 + 1j, atol=1e-3)


class Counting:
    """A stand-in for an objective, with a state, which counts how often it is traced."""

    def __init__(self):
        self.traced = 0

    def init(self, key, x, target):
        return {"calls": 0, "mean": 0.0}

    def value_and_grad(self, key, x, target, *, num_samples, state):
        self.traced += 1
        noise = jax.random.normal(key, (num_samples,)).mean()
        mean = 0.9 * state["mean"] + 0.1 * noise
        value = (x - target) ** 2 + 0.0 * noise
        return (value, 2 * (x - target) + noise), {"calls": state["calls"] + 1, "mean": mean}

    def explain(self, *args):
        return "stand-in"


@pytest.mark.legs
def test_a_state_is_carried_and_resumed():
    settings = dict(key=jax.random.key(0), args=(1.0,), num_samples=3, progress=False)
    objective = Counting()
    whole = em.minimize(objective, 0.0, ADAM, steps=30, **settings)
    assert whole.state["calls"] == 30 and whole.state["mean"] != 0.0
    part = em.minimize(objective, 0.0, ADAM, steps=11, **settings)
    assert_same(em.minimize(objective, 0.0, ADAM, steps=19, resume=part, **settings), whole)


def test_one_compilation_serves_all_chunks(monkeypatch):
    monkeypatch.setattr("estimand.ppl.train.CHUNK_SECONDS", 1e9)  # chunks of every length
    compilations = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(event)

    def compiled(steps):
        objective = Counting()
        compilations.clear()
        settings = dict(key=jax.random.key(0), args=(1.0,), progress=False)
        em.minimize(objective, 0.0, ADAM, steps=steps, **settings)
        return objective.traced, len(compilations)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        compiled(1)
        few, many = compiled(2), compiled(3_017)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert few == many
    assert few[0] == 1


# Stopping
