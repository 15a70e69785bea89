"""The variance and the work of every strategy on three problems with discrete latents.

    python -m benchmarks.estimators

A plate of Bernoulli latents, a categorical mixture and a sigmoid belief network of two layers, at
untrained parameters. The problems are those on which `em.choose` is tested.
"""

import jax

import estimand as em
from tests.choosing import PROBLEMS


def main():
    for objective, params in PROBLEMS.values():
        table = em.diagnose(objective, params, key=jax.random.key(0), num_samples=4_096)
        overview, _, _ = repr(table).partition("gradient in the arguments")
        print(overview.rstrip(), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
