"""Marginals and posteriors of programs with finite latent choices, exactly."""

from dataclasses import dataclass
from typing import Any

import jax

from estimand.errors import error
from estimand.estimators.enumerate import Enumerate
from estimand.ppl.chooser import unfit
from estimand.ppl.target import Reading, Target
from estimand.transforms.inline import CHECKPOINTS, inline
from estimand.transforms.jaxprs import Equation, trace
from estimand.transforms.places import SiteInfo
from estimand.transforms.plan import static_distribution
from estimand.transforms.sumproduct import SumProduct


@dataclass(frozen=True)
class Exact:
    """`Enumerate` as a method: log p(x) by elimination, and the posterior by the same sums."""

    strategy: Enumerate
    estimator = None

    def log_evidence(self, target: Target, retained: Reading | None = None) -> Any:
        summed, inputs = self._plan(target)
        return summed.log_sum(inputs)[0]

    def choose(self, target: Target) -> tuple[dict[str, Any], Any]:
        """Latent choices from the posterior, and their log density in it."""
        summed, inputs = self._plan(target)
        total, done = summed.log_sum(inputs)
        values = summed.sample(done)
        latent = {k: values.get(f"{target.name}/{k}") for k in target.latent}
        inner = [k for k, value in latent.items() if value is None]
        if inner:
            raise error(
                f"{target.name} ({target.program.sites[inner[0]].source})",
                "choices of a marginal inside of it cannot be drawn by the sums over its own",
                expected="latent choices of the program itself",
                got=", ".join(inner),
                remedy="observe them, or use em.Importance(...)",
            )
        return latent, target.joint(latent) - total

    def _plan(self, target: Target) -> tuple[SumProduct, list[Any]]:
        leaves, treedef = jax.tree.flatten((list(target.operands), target.given))

        def weights(*leaves: Any) -> list[Any]:
            operands, given = jax.tree.unflatten(treedef, leaves)
            return target.program.weights(operands, given, target.name)

        jaxpr, _ = trace(weights, *leaves)
        flat = inline(jaxpr, _is_checkpoint)
        return SumProduct(flat, self.strategy, self._refuses, target.name), leaves

    def _refuses(self, info: SiteInfo) -> str | None:
        return unfit(self.strategy, static_distribution(info), info)


def _is_checkpoint(eqn: Equation) -> bool:
    return eqn.primitive.name in CHECKPOINTS
