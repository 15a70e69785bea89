"""Every strategy with every distribution is unbiased, or is refused with its reason.

By default every pair is tried in one of the contexts, in turn, but every eleventh only of the
strategies that see no more than the density of their draws; `-m full` has all pairs in all
contexts, and the second derivatives of the strategies that claim them.
"""

import os
from pathlib import Path

import jax
import pytest

import estimand as em
from tests.cells import BIASED, CELLS, CONTEXTS, STRATEGIES, THETA, exact, objective
from tests.statistics import assert_unbiased, elsewhere, enough, scale

MIN_BIAS = 0.1
UNOPTIMIZED = {"xla_backend_optimization_level": 0}
PAIRS = [(strategy, cell) for strategy in STRATEGIES for cell in CELLS]
ALIKE = ("Score", "Score(MovingAverage)", "Score(LearnedBaseline)", "LeaveOneOut", "Vimco")
TURNS = [
    (*pair, list(CONTEXTS)[i % len(CONTEXTS)])
    for i, pair in enumerate(PAIRS)
    if pair[0] not in ALIKE or i % 11 == 0
]
ALL = [(*pair, context) for pair in PAIRS for context in CONTEXTS]


def refusal(strategy, cell, context):
    """The reason for which a pair is refused, or None."""
    try:
        objective(CELLS[cell], strategy, context).explain(THETA)
    except em.EstimandError as refused:
        return str(refused).splitlines()[0].split("cannot be used here: ")[1]
    return None


def hold(strategy, cell, context, order=1):
    """The surrogate and its derivatives have the right mean, as far as samples can tell."""
    program, truth = objective(CELLS[cell], strategy, context), exact(CELLS[cell], context)
    state = jax.tree.map(elsewhere, program.init(jax.random.key(1), THETA))

    def derivatives(key):
        surrogate = lambda t: program.surrogate(key, t, state=state)  # noqa: E731
        found = jax.value_and_grad(surrogate)(THETA)
        return (*found, jax.hessian(surrogate)(THETA)) if order == 2 else found

    answer = (*jax.value_and_grad(truth)(THETA), jax.hessian(truth)(THETA))[: order + 1]
    sampler = jax.jit(jax.vmap(derivatives), compiler_options=UNOPTIMIZED)
    min_bias = MIN_BIAS * scale(answer)
    assert_unbiased(enough(sampler, answer, min_bias), answer, min_bias)


@pytest.mark.parametrize("strategy, cell, context", TURNS)
def test_a_pair_is_unbiased_or_refused(strategy, cell, context):
    if refusal(STRATEGIES[strategy], cell, context) is None:
        hold(STRATEGIES[strategy], cell, context)


@pytest.mark.full
@pytest.mark.parametrize("strategy, cell, context", sorted(set(ALL) - set(TURNS)))
def test_a_pair_is_unbiased_or_refused_in_every_context(strategy, cell, context):
    if refusal(STRATEGIES[strategy], cell, context) is None:
        hold(STRATEGIES[strategy], cell, context)


KINKED = {("Pathwise", "Laplace")}
SECOND = [(s, c) for s, c in PAIRS if STRATEGIES[s].order is None and (s, c) not in KINKED]


@pytest.mark.full
@pytest.mark.parametrize("strategy, cell", SECOND)
def test_a_second_derivative_is_unbiased_where_it_is_claimed(strategy, cell):
    if refusal(STRATEGIES[strategy], cell, "alone") is None:
        hold(STRATEGIES[strategy], cell, "alone", order=2)


TABLE = Path(__file__).parents[1] / "docs" / "strategies_table.md"


def table():
    """Which strategy takes which distribution, in the words of the refusals."""
    reasons = {}
    header = "| | " + " | ".join(f"`{name}`" for name in TITLES) + " |"
    lines = [header, "|---|" + ":-:|" * len(TITLES)]
    for cell in CELLS:
        row = []
        for strategy in {**STRATEGIES, **BIASED}.values():
            why = refusal(strategy, cell, "alone")
            note = reasons.setdefault(why, len(reasons) + 1) if why else 0
            row.append(f"{note}" if note else "biased" if strategy in BIASED.values() else "✓")
        lines.append(f"| `{cell}` | " + " | ".join(row) + " |")
    notes = [f"{note}. {why}" for why, note in reasons.items()]
    return "\n".join([*lines, "", *notes, ""])


TITLES = [*STRATEGIES, *BIASED]


def test_the_table_of_the_docs_is_what_these_tests_say():
    """Written anew with ESTIMAND_WRITE_TABLE=1."""
    if os.environ.get("ESTIMAND_WRITE_TABLE"):
        TABLE.write_text(table())
    assert TABLE.read_text() == table()
