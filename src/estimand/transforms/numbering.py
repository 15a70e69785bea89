"""Labels for the sites that have no name, given before the program is rewritten.

`draw n` is the site that comes after n others in the program as it is written: every branch
counts, and the body of a loop once. A scan that is written out for the sake of a strategy has the
site once for every step, under the one label, so that no label depends on a choice of strategies.
"""

from dataclasses import replace

from estimand.transforms.jaxprs import Equation, Jaxpr, replace_jaxprs, with_equations
from estimand.transforms.primitives import sample_p


def numbered(jaxpr: Jaxpr) -> Jaxpr:
    """The same program, whose every site has a name or a label."""
    turn = 0

    def program(jaxpr: Jaxpr) -> Jaxpr:
        eqns = [equation(eqn) for eqn in jaxpr.eqns]
        same = all(a is b for a, b in zip(eqns, jaxpr.eqns, strict=True))
        return jaxpr if same else with_equations(jaxpr, eqns)

    def equation(eqn: Equation) -> Equation:
        nonlocal turn
        if eqn.primitive is not sample_p:
            return replace_jaxprs(eqn, program)
        site, label = eqn.params["site"], f"draw {turn}"
        turn += 1
        if site.label or site.name:
            return eqn
        return eqn.replace(params={"site": replace(site, label=label)})

    return program(jaxpr)
