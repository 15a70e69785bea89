"""Baselines that are trained: what they share.

A baseline b(w) with parameters w of its own is trained to predict R, the sum of all that a lane
of its site reaches, by the loss (R - b)^2 / 2 (Mnih and Gregor 2014, section 2.3). Nothing else
need be computed for it. R - b is the derivative of the surrogate in the lane's log density L, so
with L + sg b - b in the place of L, whose value is L, the surrogate has the derivative

    dS/dw = (R - b) d(L + sg b - b)/dw = -(R - b) db/dw

in w, which is that of the loss, in the same backward pass and for every order of derivative in
all else. It may use only what comes before the site, and its own w comes from earlier steps: so
E[b dL] = 0 holds as for a constant.
"""

from dataclasses import dataclass
from typing import Any

import optax

from estimand.transforms.strategy import Law


@dataclass(frozen=True)
class Baseline:
    """Base of the trained baselines; a user's own subclasses it in the same way."""

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """How its parameters follow the gradient of the loss."""
        raise NotImplementedError

    def init(self, key: Any, law: Law) -> Any:
        """The first parameters, of a site whose own parameters are not known yet."""
        raise NotImplementedError

    def before(self, law: Law) -> Any:
        """The baseline [*lanes], as far as it depends on the site's parameters.

        In a branch that is not taken `law.before` is zero, and so must `after` be, or what the
        other branch reached is learned.
        """
        return None

    def after(self, law: Law) -> Any:
        """The baseline [*lanes], from `law.before` and `law.state`."""
        return law.before
