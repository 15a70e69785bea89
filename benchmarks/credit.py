"""Who is credited with what: variance and cost of each strategy on n coins.

    python benchmarks/credit.py [--sizes 1 10 50]

A coin b costs (b - 0.45)^2, and the objective is the expected sum of n such costs, a function of
the n probabilities. Three programs: separate sites, one site under `vmap`, and a chain in a `scan`
whose coins depend on the coin before. "whole loss" is the textbook score estimator, by hand: the
score of all coins times the sum of all costs.

Standard deviations are of the derivative in the first probability, and of the whole gradient (the
root of the summed variances). The time is that of one estimate in a compiled batch of them.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import estimand as em

SAMPLES = 2_000
STRATEGIES = [em.Score(), em.MeasureValued(), em.Enumerate()]


def cost(b):
    return (b - 0.45) ** 2


def separate(via):
    @em.expectation
    def objective(probs):
        return sum(cost(em.draw(dist.Bernoulli(p), via)) for p in probs)

    return objective


def plate(via):
    @em.expectation
    def objective(probs):
        return jax.vmap(lambda p: cost(em.draw(dist.Bernoulli(p), via)))(probs).sum()

    return objective


def chain(via):
    @em.expectation
    def objective(probs):
        def step(before, p):
            b = em.draw(dist.Bernoulli(0.5 * p + 0.4 * before), via)
            return b, cost(b)

        return jax.lax.scan(step, jnp.array(0), probs)[1].sum()

    return objective


def whole_loss(program):
    """The gradient of log p(all coins) times the sum of all costs, as a function of a key."""

    def gradient(key, probs):
        def log_p_and_loss(probs):
            def step(before, given):
                key, p = given
                coin = dist.Bernoulli(0.5 * p + 0.4 * before if program is chain else p)
                b = coin.sample(key)
                return b, (coin.log_prob(b), cost(b))

            keys = jax.random.split(key, len(probs))
            log_ps, costs = jax.lax.scan(step, jnp.array(0), (keys, probs))[1]
            return log_ps.sum(), costs.sum()

        score, loss = jax.grad(log_p_and_loss, has_aux=True)(probs)
        return score * loss

    return gradient


def measure(gradient, probs):
    """Two standard deviations, and the seconds that tracing, compiling and an estimate take."""
    keys = jax.random.split(jax.random.key(0), SAMPLES)
    start = time.perf_counter()
    lowered = jax.jit(jax.vmap(gradient, (0, None))).lower(keys, probs)
    traced = time.perf_counter()
    batch = lowered.compile()
    compiled = time.perf_counter()
    variances = np.asarray(batch(keys, probs)).var(0)
    runs = []
    for _ in range(9):
        began = time.perf_counter()
        jax.block_until_ready(batch(keys, probs))
        runs.append(time.perf_counter() - began)
    deviations = variances[0] ** 0.5, variances.sum() ** 0.5
    return *deviations, traced - start, compiled - traced, np.median(runs) / SAMPLES


def report(program, n, name, gradient):
    label = f"{program.__name__:8}  {n:3}  {name:20}"
    try:
        first, whole, trace, compile_, run = measure(gradient, jnp.full(n, 0.5))
    except em.EstimandError as refusal:
        print(f"{label}  refused: {str(refusal).splitlines()[0]}")
        return
    print(
        f"{label}  {first:8.4f}  {whole:8.4f}  {run * 1e6:6.2f}  {trace:7.3f}  {compile_:9.3f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 50])
    sizes = parser.parse_args().sizes

    print("program     n  strategy              sd d/dp0  sd whole      µs  trace s  compile s")
    for program in (separate, plate, chain):
        for n in sizes:
            report(program, n, "whole loss, by hand", whole_loss(program))
            for strategy in STRATEGIES:
                report(program, n, type(strategy).__name__, program(strategy).grad)


if __name__ == "__main__":
    main()
