"""A sigmoid belief network of binarised digits, trained with one strategy after the other.

    python examples/discrete_latents.py [--via DisArm ...] [--steps 1000] [--out latents.png]

Two layers of 32 binary latents over the 64 pixels of scikit-learn's digits. Model, guide,
objective and training are written once; the strategies of the two latent sites are all that
changes. Prints a table of ELBOs and importance-weighted bounds of held-out digits, with the
variance of the gradient at the end and the time of a step, and plots the ELBO along the way.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import numpyro.distributions as dist
import optax
from sklearn.datasets import load_digits

import estimand as em

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

PIXELS, LATENT = 64, 32
TRAIN, BATCH, EVALUATIONS = 1_500, 50, 10

STRATEGIES = {
    "Score": em.Score(),
    "Score, moving average": em.Score(em.MovingAverage()),
    "Score, learned baseline": em.Score(em.LearnedBaseline(optimizer=optax.adam(3e-3))),
    "LeaveOneOut": em.LeaveOneOut(2),
    "Vimco": em.Vimco(),
    "DisArm": em.DisArm(),
    "Rebar": em.Rebar(),
    "Rebar, tuned": em.Rebar(optimizer=optax.adam(1e-2)),
    "Relax": em.Relax(optimizer=optax.adam(3e-3)),
}


def affine(layer, x):
    weights, bias = layer
    return x.astype(float) @ weights + bias


@em.gen
def model(p):
    b = em.sample("b", dist.Bernoulli(logits=p["prior"]))
    a = em.sample("a", dist.Bernoulli(logits=affine(p["a"], b)))
    em.sample("x", dist.Bernoulli(logits=affine(p["x"], a)))


@em.gen
def guide(p, x):
    a = em.sample("a", dist.Bernoulli(logits=affine(p["a"], x)))
    em.sample("b", dist.Bernoulli(logits=affine(p["b"], a)))


def log_weight(params, x):
    """log p(x, a, b) - log q(a, b | x) at latents of the guide, for one image."""
    q = guide.simulate(params["guide"], x)
    return model.log_density(em.merge(q.choices, {"x": x}), params["model"]) - q.log_density


@em.expectation
def elbo(params, images):
    return jax.vmap(lambda x: log_weight(params, x))(images).mean()


@jax.jit
def bounds(key, params, images):
    """The ELBO and the importance-weighted bound, by 100 samples for every image."""
    weights = em.seed(jax.vmap(lambda x: log_weight(params, x)))
    log_w = jax.lax.map(lambda k: weights(k, images), jax.random.split(key, 100))
    return log_w.mean(), (jax.nn.logsumexp(log_w, axis=0) - jnp.log(100.0)).mean()


def initialize(key, images):
    keys = jax.random.split(key, 4)

    def layer(key, inputs, outputs):
        return jax.random.normal(key, (inputs, outputs)) / inputs**0.5, jnp.zeros(outputs)

    weights, _ = layer(keys[1], LATENT, PIXELS)
    mean = np.clip(images.mean(0), 0.02, 0.98)
    return {
        "model": {
            "prior": jnp.zeros(LATENT),
            "a": layer(keys[0], LATENT, LATENT),
            "x": (weights, jnp.log(mean / (1 - mean))),
        },
        "guide": {"a": layer(keys[2], PIXELS, LATENT), "b": layer(keys[3], LATENT, LATENT)},
    }


def load_images():
    """Binarised digits in a fixed random order: those to train on and those to test with."""
    images = load_digits().data > 7.5
    images = images[np.random.default_rng(0).permutation(len(images))]
    return images[:TRAIN], images[TRAIN:]


def spread(objective, params, state, images):
    """The variance of the gradient of one batch, summed over all parameters."""

    def one(key):
        return objective.value_and_grad(key, params, images[:BATCH], state=state)[0][1]

    grads = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(7), 200))
    return sum(float(jnp.var(leaf, axis=0).sum()) for leaf in jax.tree.leaves(grads))


def train(via, images, test_images, steps):
    """One row of the table, and the ELBO of the test images along the way."""
    objective = elbo.using({"guide/a": via, "guide/b": via})
    key, init_key, test_key = jax.random.split(jax.random.key(0), 3)
    params, optimizer = initialize(init_key, images), optax.adam(3e-3)
    curve, seconds, fit = [], 0.0, None
    for _ in range(EVALUATIONS):
        began = time.perf_counter()
        fit = em.maximize(
            objective, params, optimizer, key=key, steps=steps // EVALUATIONS,
            data=images, batch_size=BATCH, resume=fit, progress=False,
        )  # fmt: skip
        seconds += time.perf_counter() - began
        curve.append((fit.step, float(bounds(test_key, fit.params, test_images)[0])))
    tests = map(float, bounds(test_key, fit.params, test_images))
    variance = spread(objective, fit.params, fit.state, images)
    return (*tests, variance, seconds / steps * 1e3), curve


def draw(curves, path):
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), ".-", label=name)
    axes.set(xlabel="step", ylabel="nats per digit", title="ELBO of held-out digits")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--via", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--out", default="discrete_latents.png", help="where the picture goes")
    options = parser.parse_args()

    images, test_images = load_images()
    curves = {}
    print(f"{'strategy':24} {'ELBO':>8} {'bound':>8} {'variance':>10} {'ms/step':>8}")
    for name in options.via:
        row, curves[name] = train(STRATEGIES[name], images, test_images, options.steps)
        print("{:24} {:8.2f} {:8.2f} {:10.3g} {:8.2f}".format(name, *row), flush=True)
    draw(curves, options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
