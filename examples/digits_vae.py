"""A variational autoencoder of scikit-learn's handwritten digits.

    python examples/digits_vae.py [--out digits_vae.png]

Trains on 1,500 digits of 8 x 8 pixels, black or white. Prints the ELBO of the other 297 and the
importance-weighted bound on their log-likelihood, and draws reconstructions, samples of the model
and the learning curve.
"""

import argparse

import equinox as eqx
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

PIXELS, LATENT, HIDDEN = 64, 10, 200
TRAIN, BATCH, EPOCHS = 1_500, 100, 150
STEPS_PER_EPOCH = TRAIN // BATCH


@em.gen
def model(decoder):
    z = em.sample("z", dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
    em.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1))


@em.gen
def guide(encoder, x):
    mean, log_scale = jnp.split(encoder(x.astype(float)), 2)
    em.sample("z", dist.Normal(mean, jnp.exp(log_scale)).to_event(1))


def log_weight(params, x):
    """log p(x, z) - log q(z | x) at a z of the guide, for one image."""
    q = guide.simulate(params["encoder"], x)
    return model.log_density(em.merge(q.choices, {"x": x}), params["decoder"]) - q.log_density


@em.expectation
def elbo(params, images):
    return jax.vmap(lambda x: log_weight(params, x))(images).mean()


elbo_estimate = eqx.filter_jit(elbo.estimate)


@eqx.filter_jit
def importance_bound(key, params, images, num_samples):
    """E[log of the mean of num_samples weights]: below the log-likelihood, above the ELBO."""
    weights = em.seed(jax.vmap(lambda x: log_weight(params, x)))
    log_w = jax.lax.map(lambda k: weights(k, images), jax.random.split(key, num_samples))
    return (jax.nn.logsumexp(log_w, axis=0) - jnp.log(num_samples)).mean()


def initialize(key):
    encoder_key, decoder_key = jax.random.split(key)
    settings = dict(width_size=HIDDEN, depth=2, activation=jax.nn.silu)
    return {
        "encoder": eqx.nn.MLP(PIXELS, 2 * LATENT, key=encoder_key, **settings),
        "decoder": eqx.nn.MLP(LATENT, PIXELS, key=decoder_key, **settings),
    }


def load_images():
    """Binarised digits in a fixed random order: those to train on and those to test with."""
    images = load_digits().data > 7.5
    images = images[np.random.default_rng(0).permutation(len(images))]
    return images[:TRAIN], images[TRAIN:]


def train(key, params, images, test_images):
    """The fit, and the ELBO of the test images every ten epochs."""
    curve = []

    def evaluate(step, value, params):
        if step % (10 * STEPS_PER_EPOCH) == 0:
            curve.append((step // STEPS_PER_EPOCH, elbo_estimate(key, params, test_images)))

    steps = EPOCHS * STEPS_PER_EPOCH
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    settings = dict(data=images, batch_size=BATCH, callback=evaluate)
    return em.maximize(elbo, params, optimizer, key=key, steps=steps, **settings), curve


def mosaic(images, columns):
    """Images [n, 64] as one picture, with a margin between them."""
    tiles = np.pad(images.reshape(-1, columns, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
    return tiles.transpose(0, 2, 1, 3).reshape(len(tiles) * 10, columns * 10)


def draw(key, params, images, history, curve, path):
    encode, decode = jax.vmap(params["encoder"]), jax.vmap(params["decoder"])
    shown = images[:12]
    rebuilt = jax.nn.sigmoid(decode(encode(shown.astype(np.float32))[:, :LATENT]))
    samples = jax.nn.sigmoid(decode(jax.random.normal(key, (60, LATENT))))
    pairs = np.concatenate([shown, rebuilt])

    figure = plt.figure(figsize=(11, 4.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[2, 5], width_ratios=[6, 5])
    panels = [(0, pairs, "Test digits and their reconstructions"), (1, samples, "Samples")]
    for row, content, title in panels:
        axes = figure.add_subplot(grid[row, 0])
        axes.imshow(mosaic(np.asarray(content), 12), cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(title)
        axes.axis("off")

    axes = figure.add_subplot(grid[:, 1])
    epochs = np.arange(1, EPOCHS + 1)
    axes.plot(epochs, history.reshape(EPOCHS, -1).mean(1), label="train", color="tab:gray")
    axes.plot(*zip(*curve, strict=True), ".-", label="test", color="tab:red")
    axes.set(xlabel="epoch", ylabel="nats per digit", title="ELBO", ylim=(-26, -15))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="digits_vae.png", help="where the picture goes")
    path = parser.parse_args().out

    images, test_images = load_images()
    init_key, train_key, test_key, draw_key = jax.random.split(jax.random.key(0), 4)
    fit, curve = train(train_key, initialize(init_key), images, test_images)
    draw(draw_key, fit.params, test_images, fit.history, curve, path)
    print(f"wrote {path}")

    test_elbo = elbo_estimate(test_key, fit.params, test_images, num_samples=100)
    print(f"test ELBO: {test_elbo:.2f} nats")
    bound = importance_bound(test_key, fit.params, test_images, 500)
    print(f"test bound (500 samples): {bound:.2f} nats")


if __name__ == "__main__":
    main()
