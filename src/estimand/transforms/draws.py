"""Running the sites of loops and branches forward, whose draws are combined outside of them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from estimand.transforms.density import log_density
from estimand.transforms.interpret import Handler, Path
from estimand.transforms.jaxprs import Equation, Var
from estimand.transforms.plan import Plan
from estimand.transforms.primitives import Site
from estimand.transforms.strategy import Law
from estimand.transforms.unbounded import run_while


class Draw(Handler):
    """Runs a loop's or branch's sites, recording log densities and tapped values."""

    def __init__(
        self,
        plan: Plan,
        key: Any,
        tapped: dict[tuple[Path, Var], str],
        states: Mapping[Path, Any],
        alive: Any = None,
    ):
        self.plan, self.key, self.tapped, self.alive = plan, key, tapped, alive
        self.states = states
        self.turn = 0
        self.records: dict[str, Any] = {}

    def _next_key(self) -> Any:
        self.turn += 1
        return jax.random.fold_in(self.key, self.turn)

    def site(self, eqn: Equation, path: Path, address: str, leaves: list[Any]) -> Any:
        site: Site = eqn.params["site"]
        strategy = self.plan.chosen[path].strategy
        info = self.plan.sites[path]
        key, state = self._next_key(), self.states.get(path)
        law = Law(site, leaves, info.shape[info.steps :], label=info.label, key=key, state=state)
        shape = eqn.outvars[0].aval.shape
        value = law.shaped(strategy, "points", jnp.asarray(strategy.points(key, law)), shape)
        if not strategy.pathwise:
            before = strategy.before(law)
            if before is not None:
                self.records[f"before {path}"] = before
            density = log_density(site, value, leaves)
            if self.alive is not None:
                alive = self.alive.reshape(
                    self.alive.shape + (1,) * (density.ndim - self.alive.ndim)
                )
                density = jnp.where(alive, density, 0.0)
            self.records[f"site {path}"] = density
            self.records[f"draw {path}"] = value
        return value

    def open(
        self, eqn: Equation, operands: list[Any], path: Path, scope: tuple[str, ...]
    ) -> list[Any]:
        scored = (p for p in self.plan.sites if p[: len(path)] == path and self.plan.weighted(p))
        if eqn.primitive.name != "while" or not any(scored):
            return super().open(eqn, operands, path, scope)
        outs, found = run_while(eqn, operands, self, path)
        self.records.update(found)
        return outs

    def fork(self, eqn: Equation, path: Path, scope: Any, n: int | None) -> Any:
        key = self._next_key()
        return key if n is None else jax.random.split(key, n)

    def child(self, incoming: Any) -> "Draw":
        return Draw(self.plan, incoming, self.tapped, self.states, self.alive)

    def leave(self, path: Path, env: dict[Any, Any]) -> None:
        for (where, var), name in self.tapped.items():
            if where == path:
                self.records[name] = env[var]

    def outgoing(self) -> dict[Any, Any]:
        return self.records

    def absorb(self, outgoing: dict[Any, Any]) -> None:
        self.records.update(outgoing)
