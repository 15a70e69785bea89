"""The one table of programs with known answers: every strategy is held against it.

One module a kind of program; importing them fills `CASES`.
"""

from tests.cases import continuous, flow, lanes, models, steps
from tests.cases.table import CASES, SEVERAL_POINTS, Table

__all__ = ["CASES", "SEVERAL_POINTS", "Table", "continuous", "flow", "lanes", "models", "steps"]
