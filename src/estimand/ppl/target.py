"""A program of which some choices are given and the others are latent.

What marginals and posteriors are made of: `Target.prior()` draws the latent choices from the
program itself and weighs the run by the density of the given ones; `Target.joint(latent)` draws
nothing. A `Program` is static and holds no tracer, so it can be part of an equation; all that
the generative function depends on are its operands.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dists

from estimand.ppl.choices import unflatten
from estimand.transforms.density import Recorder
from estimand.transforms.interpret import interpret
from estimand.transforms.jaxprs import Jaxpr, with_constants
from estimand.transforms.primitives import bind_site
from estimand.transforms.survey import Found, survey
from estimand.transforms.weights import or_equal


class Reading(NamedTuple):
    """One run: all choices by address, their log density, and the part of it that is of given
    choices and factors."""

    choices: dict[str, Any]
    log_density: Any
    log_weight: Any


@dataclass(frozen=True, eq=False)
class Program:
    """A staged generative function, of its constants and inputs."""

    name: str
    jaxpr: Jaxpr  # whose constants are replaced by the first operands
    found: tuple[Found, ...]

    @property
    def sites(self) -> dict[str, Found]:
        """What was found of its choices, each once, in the order of the program."""
        return {item.address: item for item in self.found if item.site is not None}

    def run(
        self,
        operands: Sequence[Any],
        given: dict[str, Any],
        weighted: Collection[str] = (),
        owner: str | None = None,
    ) -> Reading:
        """Scores what is given and draws the rest, whose labels say the owner."""
        recorder = self._read(operands, Recorder(owner or self.name, given, weighted))
        records = recorder.records.values()
        values = {name: r["value"] for name, r in recorder.records.items() if "value" in r}
        density, weight = (
            total([jnp.sum(r[kind]) for r in records if kind in r])
            for kind in ("log_density", "log_weight")
        )
        return Reading(values, density, weight)

    def weights(self, operands: Sequence[Any], given: dict[str, Any], owner: str) -> list[Any]:
        """The log densities of given choices and the factors, as they stand in the program."""
        recorder = self._read(operands, Recorder(owner, given, given))
        return [r["log_weight"] for r in recorder.records.values() if "log_weight" in r]

    def _read(self, operands: Sequence[Any], recorder: Recorder) -> Recorder:
        interpret(*self.of(operands), recorder)
        return recorder

    def of(self, operands: Sequence[Any]) -> tuple[Jaxpr, list[Any]]:
        """Its jaxpr with these constants, and the inputs of that."""
        count = len(operands) - len(self.jaxpr.jaxpr.invars)
        return with_constants(self.jaxpr, operands[:count]), list(operands[count:])


def program_of(jaxpr: Jaxpr, name: str) -> Program:
    return Program(name, jaxpr, tuple(survey(jaxpr, name)))


def total(terms: list[Any]) -> Any:
    return sum(terms[1:], start=terms[0]) if terms else jnp.zeros(())


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["operands", "given", "proposal_operands"],
    meta_fields=["name", "program", "proposal"],
)
@dataclass(frozen=True)
class Target:
    """A program with some choices given, and the program that proposes the others, if any.

    A pytree of the arrays that it depends on.
    """

    name: str  # of the marginal or posterior
    program: Program
    operands: Sequence[Any]
    given: dict[str, Any]
    proposal: Program | None = None
    proposal_operands: Sequence[Any] = ()

    @property
    def latent(self) -> list[str]:
        return [name for name in self.program.sites if name not in self.given]

    def latent_of(self, choices: dict[str, Any]) -> dict[str, Any]:
        return {name: x for name, x in choices.items() if name not in self.given}

    def pick(self, log_weights: Any) -> Any:
        """One of n particles in proportion to weight, a site of its own."""
        law = dists.Categorical(logits=or_equal(log_weights))
        return bind_site(law, name=None, via=None, label=f"{self.name}/particle")

    def prior(self) -> Reading:
        """The latent choices drawn by the program itself."""
        return self.program.run(self.operands, self.given, self.given, self.name)

    def joint(self, latent: dict[str, Any]) -> Any:
        """The log density of all choices."""
        return self.program.run(self.operands, {**self.given, **latent}).log_density

    def propose(self, latent: dict[str, Any]) -> Reading:
        """The proposal's run: of these latent choices, or of drawn ones where there are none."""
        assert self.proposal is not None
        operands = [*self.proposal_operands, *jax.tree.leaves(unflatten(self.given))]
        return self.proposal.run(operands, latent)
