"""A marginal by sequential Monte Carlo inside an ELBO, against the exact forward algorithm.

    python examples/hmm_smc.py [--steps 1000] [--particles 20] [--out hmm_smc.png]

A hidden Markov model of 50 steps and three states; the two parameters of its emissions have a
Gaussian prior and a Gaussian guide. The states are summed out of the model twice: exactly
(`Enumerate`, the forward algorithm), and by a particle filter (`SMC`), which is unbiased for p(x).
Trained by one and by the other objective, the guides should end at the same place.
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

STATES, LENGTH, BATCH = 3, 50, 8
MOVES = 0.85 * jnp.eye(STATES) + 0.05


@em.gen
def hmm(theta):
    """States z_t and sights x_t ~ N(theta[0] + theta[1] z_t, 0.7)."""

    def step(z, _):
        z = em.sample("z", dist.Categorical(MOVES[z]))
        em.sample("x", dist.Normal(theta[0] + theta[1] * z.astype(float), 0.7))
        return z, None

    jax.lax.scan(
        step, em.sample("first", dist.Categorical(jnp.ones(STATES) / STATES)), None, LENGTH
    )


def model_with(via):
    """The prior of theta and the likelihood of the sights, the states integrated out."""
    sights = hmm.marginal(keep="x", via=via)

    @em.gen
    def model():
        sights(em.sample("theta", dist.Normal(jnp.zeros(2), 3.0)))

    return model


@em.gen
def guide(phi):
    em.sample("theta", dist.Normal(phi["mean"], jnp.exp(phi["log_scale"])))


def elbo(via, x):
    model = model_with(via)

    @em.expectation
    def objective(phi):
        log_joint = lambda z: model.log_density(em.merge(z, {"x": x}))  # noqa: E731
        return em.elbo(log_joint, lambda: guide.simulate(phi))

    return objective


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--particles", type=int, default=20)
    parser.add_argument("--out", default="hmm_smc.png", help="where the picture goes")
    args = parser.parse_args()

    truth = jnp.array([-1.0, 1.5])
    x = em.seed(hmm.simulate)(jax.random.key(7), truth).choices["x"]
    density = {via: em.seed(hmm.marginal(keep="x", via=via).log_density) for via in methods(args)}
    exact = density[em.Enumerate()](jax.random.key(0), {"x": x}, truth)
    keys = jax.random.split(jax.random.key(1), 2_000)
    smc = jax.jit(jax.vmap(lambda k: density[em.SMC(args.particles)](k, {"x": x}, truth)))(keys)
    ratio = jnp.exp(smc - exact)
    error = ratio.std() / len(keys) ** 0.5
    print(f"forward algorithm: log p(x) = {exact:.4f}")
    print(f"SMC, {args.particles} particles: E[Z] / p(x) = {ratio.mean():.4f} +- {error:.4f}")

    start = {"mean": jnp.zeros(2), "log_scale": jnp.full(2, -1.0)}
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, args.steps))
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, via in zip(("exact", "SMC"), methods(args), strict=True):
        objective = elbo(via, x)
        fit = em.maximize(
            objective, start, optimizer, key=jax.random.key(2), steps=args.steps, num_samples=BATCH
        )
        value = elbo(em.Enumerate(), x).estimate(jax.random.key(3), fit.params, num_samples=2_000)
        mean, scale = fit.params["mean"], jnp.exp(fit.params["log_scale"])
        print(f"trained by {name:<5}: mean {mean}, scale {scale}, exact ELBO {value:.3f}")
        axes.plot(fit.history, label=name, alpha=0.7, linewidth=0.7)
    axes.set(xlabel="step", ylabel=f"objective, {BATCH} samples (nats)", title="Training")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(args.out, dpi=120)
    print(f"wrote {args.out}")


def methods(args):
    return em.Enumerate(), em.SMC(args.particles)


if __name__ == "__main__":
    main()
