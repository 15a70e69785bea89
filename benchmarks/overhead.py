"""What a gradient of the ELBO costs: hand-written JAX, estimand, and NumPyro's Trace_ELBO.

    python benchmarks/overhead.py [--rounds 60] [--batches 64 256 1024]

One model, a 784-200-20 variational autoencoder; one estimator, one sample an image. The calls of
the three are interleaved and each is waited for; times are medians. Tracing and compilation are
measured apart, with JAX's caches cleared.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import Trace_ELBO

import estimand as em

PIXELS, HIDDEN, LATENT = 784, 200, 20


def initialize(key):
    def dense(key, inputs, outputs):
        weights = jax.random.normal(key, (inputs, outputs)) / jnp.sqrt(inputs)
        return {"weights": weights, "bias": jnp.zeros(outputs)}

    sizes = {
        "encoder": [(PIXELS, HIDDEN), (HIDDEN, 2 * LATENT)],
        "decoder": [(LATENT, HIDDEN), (HIDDEN, PIXELS)],
    }
    keys = iter(jax.random.split(key, 4))
    return {net: [dense(next(keys), *size) for size in layers] for net, layers in sizes.items()}


def network(layers, x):
    first, second = layers
    hidden = jnp.tanh(x.astype(float) @ first["weights"] + first["bias"])
    return hidden @ second["weights"] + second["bias"]


# By hand


def handwritten(key, params, images):
    def normal_log_prob(x, mean, log_scale):
        standard = (x - mean) * jnp.exp(-log_scale)
        return jnp.sum(-0.5 * standard**2 - log_scale - 0.5 * jnp.log(2 * jnp.pi), -1)

    def elbo(params):
        mean, log_scale = jnp.split(network(params["encoder"], images), 2, axis=-1)
        z = mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape)
        logits = network(params["decoder"], z)
        log_normalizer = jnp.maximum(logits, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))
        likelihood = jnp.sum(images * logits - log_normalizer, -1)
        prior = normal_log_prob(z, 0.0, jnp.zeros(()))
        return jnp.mean(likelihood + prior - normal_log_prob(z, mean, log_scale))

    return jax.value_and_grad(elbo)(params)


# With estimand


@em.gen
def model(decoder):
    z = em.sample("z", dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
    em.sample("x", dist.Bernoulli(logits=network(decoder, z)).to_event(1))


@em.gen
def guide(encoder, x):
    mean, log_scale = jnp.split(network(encoder, x), 2)
    em.sample("z", dist.Normal(mean, jnp.exp(log_scale)).to_event(1))


@em.expectation
def elbo(params, images):
    def one(x):
        q = guide.simulate(params["encoder"], x)
        choices = em.merge(q.choices, {"x": x})
        return model.log_density(choices, params["decoder"]) - q.log_density

    return jax.vmap(one)(images).mean()


def estimands(key, params, images):
    return elbo.value_and_grad(key, params, images)


# With NumPyro


def numpyro_model(params, images):
    with numpyro.plate("images", len(images)):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
        likelihood = dist.Bernoulli(logits=network(params["decoder"], z)).to_event(1)
        numpyro.sample("x", likelihood, obs=images)


def numpyro_guide(params, images):
    mean, log_scale = jnp.split(network(params["encoder"], images), 2, axis=-1)
    with numpyro.plate("images", len(images)):
        numpyro.sample("z", dist.Normal(mean, jnp.exp(log_scale)).to_event(1))


def numpyros(key, params, images):
    def elbo(params):
        loss = Trace_ELBO().loss(key, {}, numpyro_model, numpyro_guide, params, images)
        return -loss / len(images)

    return jax.value_and_grad(elbo)(params)


CONTENDERS = {"hand-written": handwritten, "estimand": estimands, "NumPyro": numpyros}


def build(function, arguments, repeats=5):
    """The compiled function, and the median times of tracing and of compiling it."""
    times = []
    for _ in range(repeats):
        jax.clear_caches()
        start = time.perf_counter()
        lowered = jax.jit(lambda *args: function(*args)).lower(*arguments)
        traced = time.perf_counter()
        compiled = lowered.compile()
        times.append((traced - start, time.perf_counter() - traced))
    return compiled, *np.median(times, axis=0)


def time_interleaved(compiled, arguments, rounds):
    """Seconds [round, contender]; the order of the contenders rotates."""
    times = np.zeros((rounds, len(compiled)))
    for i in range(-3, rounds):  # the first three warm up
        for j in np.roll(np.arange(len(compiled)), i):
            start = time.perf_counter()
            jax.block_until_ready(compiled[j](*arguments))
            times[i, j] = time.perf_counter() - start
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024])
    options = parser.parse_args()

    key, params = jax.random.key(0), initialize(jax.random.key(1))
    print(f"JAX {jax.__version__}, NumPyro {numpyro.__version__}, {jax.devices()[0].device_kind}")
    print(
        f"{'batch':>5}  {'':12}  {'ms':>8}  {'ratio':>6}  {'Mflop':>7}  {'trace s':>7}  compile s"
    )
    for batch in options.batches:
        images = jax.random.bernoulli(jax.random.key(2), 0.3, (batch, PIXELS)).astype(int)
        arguments = key, params, images
        built = [build(function, arguments) for function in CONTENDERS.values()]
        times = time_interleaved([b[0] for b in built], arguments, options.rounds)
        ratios = np.median(times / times[:, :1], axis=0)
        rows = zip(CONTENDERS, built, np.median(times, axis=0), ratios, strict=True)
        for name, (compiled, trace, compile_), seconds, ratio in rows:
            flops = compiled.cost_analysis()["flops"] / 1e6
            print(
                f"{batch:5}  {name:12}  {seconds * 1e3:8.3f}  {ratio:6.3f}  {flops:7.1f}"
                f"  {trace:7.3f}  {compile_:9.3f}"
            )


if __name__ == "__main__":
    main()
