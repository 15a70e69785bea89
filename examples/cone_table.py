"""Five objectives of one problem, each against its computed optimum and beside NumPyro.

    python examples/cone_table.py [--steps 5000]

The problem of `cone.py`: a point (x, y) seen through a noisy z = 5 of x^2 + y^2. A Gaussian guide
is trained by the ELBO and by its importance-weighted form; a guide on the ring, with the angle an
auxiliary choice, by three hierarchical bounds. Last, the angle is put on 256 atoms and summed out:
that guide's density is exact, and its ELBO almost the log evidence. (Becker et al., Probabilistic
Programming with Programmable Variational Inference, PLDI 2024, Table 4.)
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO

import estimand as em

OBSERVED, BATCH, N = {"z": 5.0}, 64, 5
EVIDENCE = -5.3232  # log p(z = 5), by quadrature on a grid


@em.gen
def model():
    x = em.sample("x", dist.Normal(0.0, 10.0))
    y = em.sample("y", dist.Normal(0.0, 10.0))
    r = x**2 + y**2
    em.sample("z", dist.Normal(r, 0.1 + r / 100.0))


@em.gen
def gaussian(phi):
    em.sample("x", dist.Normal(phi["mean"][0], jnp.exp(phi["scale"][0])))
    em.sample("y", dist.Normal(phi["mean"][1], jnp.exp(phi["scale"][1])))


def on_the_ring(phi, angle):
    radius = jnp.sqrt(OBSERVED["z"])
    em.sample("x", dist.Normal(radius * jnp.cos(angle), jnp.exp(phi["scale"][0])))
    em.sample("y", dist.Normal(radius * jnp.sin(angle), jnp.exp(phi["scale"][1])))


@em.gen
def ring(phi):
    on_the_ring(phi, 2 * jnp.pi * em.sample("u", dist.Uniform(0.0, 1.0)))


@em.gen
def atoms(phi):
    k = em.sample("k", dist.Categorical(jnp.full(256, 1 / 256)), via=em.Score())
    on_the_ring(phi, 2 * jnp.pi * k.astype(float) / 256)


def log_joint(choices):
    return model.log_density(em.merge(choices, OBSERVED))


KEEP = ("x", "y")
summed = atoms.marginal(keep=KEEP, via=em.Enumerate())
OBJECTIVES = {
    "ELBO": (-8.0745, lambda phi: em.elbo(log_joint, lambda: gaussian.simulate(phi))),
    "IWELBO5": (-7.535, lambda phi: em.iwelbo(log_joint, lambda: gaussian.simulate(phi), N)),
    "HVI": (-9.753, lambda phi: em.hvi(log_joint, ring, phi, keep=KEEP)),
    "IWHVI5": (-8.184, lambda phi: em.iwhvi(log_joint, ring, phi, keep=KEEP, n=N)),
    "DIWHVI5,5": (-7.302, lambda phi: em.diwhvi(log_joint, ring, phi, keep=KEEP, n=N, m=N)),
    "exact angle": (EVIDENCE, lambda phi: em.elbo(log_joint, lambda: summed.simulate(phi))),
}
START = {"mean": jnp.array([2.0, 0.0]), "scale": jnp.array([-1.0, -1.0])}


def train(objective, steps):
    """The value after training, its standard error, and the seconds to compile and to run."""
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, steps))
    keys = jax.random.split(jax.random.key(1), steps)

    @jax.jit
    def run(params):
        def step(state, key):
            params, opt_state = state
            _, grads = objective.value_and_grad(key, params, num_samples=BATCH)
            updates, opt_state = optimizer.update(jax.tree.map(jnp.negative, grads), opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    start = time.perf_counter()
    compiled = run.lower(START).compile()
    middle = time.perf_counter()
    params = jax.block_until_ready(compiled(START))
    end = time.perf_counter()
    keys = jax.random.split(jax.random.key(2), 100_000)
    evaluate = lambda key: objective.estimate(key, params)  # noqa: E731
    values = jax.jit(lambda keys: jax.lax.map(evaluate, keys, batch_size=10_000))(keys)
    return values.mean(), values.std() / len(keys) ** 0.5, middle - start, end - middle


def numpyro_model():
    x = numpyro.sample("x", dist.Normal(0.0, 10.0))
    y = numpyro.sample("y", dist.Normal(0.0, 10.0))
    r = x**2 + y**2
    numpyro.sample("z", dist.Normal(r, 0.1 + r / 100.0), obs=OBSERVED["z"])


def numpyro_guide():
    for i, name in enumerate(KEEP):
        mean = numpyro.param(f"mean_{name}", START["mean"][i])
        scale = numpyro.param(f"scale_{name}", START["scale"][i])
        numpyro.sample(name, dist.Normal(mean, jnp.exp(scale)))


def with_numpyro(loss, steps):
    """The same of NumPyro; `loss(particles)` makes the loss."""
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, steps))
    svi = SVI(numpyro_model, numpyro_guide, optimizer, loss(BATCH))
    state = svi.init(jax.random.key(0))
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: (svi.update(s)[0], None), s, length=steps)[0])
    start = time.perf_counter()
    compiled = run.lower(state).compile()
    middle = time.perf_counter()
    state = jax.block_until_ready(compiled(state))
    end = time.perf_counter()
    params = svi.get_params(state)
    keys = jax.random.split(jax.random.key(2), 100_000)
    one = loss(1)
    values = jax.lax.map(
        lambda key: -one.loss(key, params, numpyro_model, numpyro_guide), keys, batch_size=10_000
    )
    return values.mean(), values.std() / len(keys) ** 0.5, middle - start, end - middle


class Iwelbo5(RenyiELBO):
    """NumPyro's bound of five particles, averaged over a batch."""

    def __init__(self, batch):
        super().__init__(alpha=0.0, num_particles=N)
        self.batch = batch

    def loss(self, key, *args, **kwargs):
        keys = jax.random.split(key, self.batch)
        return jnp.mean(jax.vmap(lambda k: super(Iwelbo5, self).loss(k, *args, **kwargs))(keys))


NUMPYRO = {"ELBO": lambda batch: Trace_ELBO(num_particles=batch), "IWELBO5": Iwelbo5}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5_000)
    steps = parser.parse_args().steps
    row = "{:<12} {:<9} {:>9} {:>17} {:>11} {:>9}"
    print(row.format("objective", "by", "optimum", "reached (error)", "compile, s", "run, s"))
    for name, (optimum, program) in OBJECTIVES.items():
        runs = [("estimand", lambda p=program: train(em.expectation(p), steps))]
        if name in NUMPYRO:
            runs.append(("NumPyro", lambda n=name: with_numpyro(NUMPYRO[n], steps)))
        for library, run in runs:
            value, error, compiling, running = run()
            reached = f"{value:.4f} ({error:.4f})"
            times = f"{compiling:.1f}", f"{running:.1f}"
            print(row.format(name, library, f"{optimum:.4f}", reached, *times), flush=True)


if __name__ == "__main__":
    main()
