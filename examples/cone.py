"""The posterior of a point on a cone, by a guide that is too simple for it.

    python examples/cone.py [--out cone.png]

A point (x, y) is seen only through a noisy measurement z = 5 of x^2 + y^2, so its posterior is a
ring. A Gaussian guide finds one side of the ring; the picture has it on top of the exact posterior.
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib
import numpyro.distributions as dist
import optax

import estimand as em

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

OBSERVED = {"z": 5.0}
STEPS = 5_000


@em.gen
def model():
    x = em.sample("x", dist.Normal(0.0, 10.0))
    y = em.sample("y", dist.Normal(0.0, 10.0))
    r = x**2 + y**2
    em.sample("z", dist.Normal(r, 0.1 + r / 100.0))


@em.gen
def guide(phi):
    em.sample("x", dist.Normal(phi["mx"], jnp.exp(phi["sx"])))
    em.sample("y", dist.Normal(phi["my"], jnp.exp(phi["sy"])), via=em.Score())


@em.expectation
def elbo(phi):
    q = guide.simulate(phi)
    return model.log_density(em.merge(q.choices, OBSERVED)) - q.log_density


def on_grid(log_density, grid):
    """log_density({"x": x, "y": y}) at every point of the grid; rows are y."""
    over_x = jax.vmap(lambda x, y: log_density({"x": x, "y": y}), (0, None))
    return jax.jit(jax.vmap(over_x, (None, 0)))(grid, grid)


def draw(grid, posterior, approximation, history, evidence, path):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    extent = (grid[0], grid[-1], grid[0], grid[-1])
    left.imshow(posterior, origin="lower", extent=extent, cmap="Blues")
    sigmas = approximation.max() * jnp.exp(-0.5 * jnp.array([3.0, 2.0, 1.0]) ** 2)
    left.contour(grid, grid, approximation, levels=sigmas, colors="tab:red", linewidths=1)
    left.set(xlabel="x", ylabel="y", title="Exact posterior (blue) and guide (red)")
    right.plot(history, color="tab:red", alpha=0.6, linewidth=0.5, label="ELBO, 64 samples")
    right.axhline(evidence, color="tab:blue", label="log evidence")
    right.set(xlabel="step", ylabel="nats", title="Training", ylim=(-12, evidence + 1))
    right.grid(alpha=0.3)
    right.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="cone.png", help="where the picture goes")
    path = parser.parse_args().out

    train_key, test_key = jax.random.split(jax.random.key(0))
    phi = {"mx": 2.0, "my": 0.0, "sx": -1.0, "sy": -1.0}
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, STEPS))
    fit = em.maximize(elbo, phi, optimizer, key=train_key, steps=STEPS, num_samples=64)

    grid = jnp.linspace(-3.0, 3.0, 401)
    joint = on_grid(lambda choices: model.log_density(em.merge(choices, OBSERVED)), grid)
    evidence = jax.nn.logsumexp(joint) + 2 * jnp.log(grid[1] - grid[0])
    approximation = on_grid(lambda choices: guide.log_density(choices, fit.params), grid)
    draw(grid, jnp.exp(joint - evidence), jnp.exp(approximation), fit.history, evidence, path)
    print(f"wrote {path}")

    value = elbo.estimate(test_key, fit.params, num_samples=100_000)
    print(f"log evidence {evidence:.3f} nats, ELBO {value:.3f} nats")


if __name__ == "__main__":
    main()
