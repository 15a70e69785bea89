"""Marginals and posteriors of programs with finite latent choices, exactly."""

from dataclasses import dataclass
from typing import Any

import jax

from estimand.estimators.enumerate import Enumerate
from estimand.ppl.target import Reading, Target
from estimand.transforms.inline import CHECKPOINTS, inline
from estimand.transforms.jaxprs import Equation, trace
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
        latent = {k: values[f"{target.name}/{k}"] for k in target.latent}
        return latent, target.joint(latent) - total

    def _plan(self, target: Target) -> tuple[SumProduct, list[Any]]:
        leaves, treedef = jax.tree.flatten((list(target.operands), target.given))

        def weights(*leaves: Any) -> list[Any]:
            operands, given = jax.tree.unflatten(treedef, leaves)
            return target.program.weights(operands, given, target.name)

        jaxpr, _ = trace(weights, *leaves)
        flat = inline(jaxpr, _is_checkpoint)
        return SumProduct(flat, self.strategy, target.name), leaves


def _is_checkpoint(eqn: Equation) -> bool:
    return eqn.primitive.name in CHECKPOINTS
