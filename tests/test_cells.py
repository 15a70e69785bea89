"""Every strategy with every distribution is unbiased, or is refused as the tables say.

Which pairs are refused, in which context and why, is compared with `cells_refused.txt` and with
the table of the docs: all of it. Of the others every fifth pair of a strategy is tried in one of
its contexts, in turn, and one of the strategies that see no more than the density of their draws;
`-m full` has all pairs in all contexts, and the second derivatives that are claimed.
"""

import dataclasses
import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import estimand as em
from estimand.estimators.score import ratio
from tests.cells import BIASED, CELLS, CONTEXTS, STRATEGIES, THETA, exact, objective
from tests.statistics import assert_unbiased, elsewhere, enough, scale

MIN_BIAS = 0.25  # of the sizes that `sizes` gives; half of a gradient would be seen
UNOPTIMIZED = {"xla_backend_optimization_level": 0}
REFUSED = Path(__file__).with_name("cells_refused.txt")
TABLE = Path(__file__).parents[1] / "docs" / "strategies_table.md"
WRITING = "ESTIMAND_WRITE_TABLE" in os.environ


def refused():
    """From (strategy, cell) to the contexts in which the pair is refused, as the file has it."""
    rows = (line.split(" | ") for line in REFUSED.read_text().splitlines())
    return {(strategy, cell): contexts.split() for strategy, cell, contexts in rows}


KNOWN = refused()
PAIRS = [(strategy, cell) for strategy in STRATEGIES for cell in CELLS]
ALL = [(*pair, c) for pair in PAIRS for c in CONTEXTS if c not in KNOWN.get(pair, ())]
ALIKE = ("Score", "Score(MovingAverage)", "Score(LearnedBaseline)", "LeaveOneOut", "Vimco")


def turns():
    """Some pairs of every strategy, at other cells for each, in a context that they can have."""
    for k, strategy in enumerate(STRATEGIES):
        pairs = list(dict.fromkeys(triple[:2] for triple in ALL if triple[0] == strategy))
        step = len(pairs) if strategy in ALIKE else min(5, len(pairs))
        for i, pair in enumerate(pairs[7 * k % step :: step]):
            able = [triple for triple in ALL if triple[:2] == pair]
            yield able[(i + k) % len(able)]


TURNS = list(turns())


@functools.cache
def refusal(strategy, cell, context):
    """The reason for which a pair is refused, or None."""
    try:
        objective(CELLS[cell], strategy, context).explain(THETA)
    except em.EstimandError as refused:
        return str(refused).splitlines()[0].split("cannot be used here: ")[1]
    return None


def sizes(answer):
    """Of every entry: that of the value, of the gradient and of the second derivative."""
    value, slope, *second = answer
    slope = np.abs(np.asarray(slope, np.float64))
    slope = np.maximum(slope, 0.2 * slope.max())
    return (0.4 * scale(value), slope, *(0.4 * scale(answer) for _ in second))


def relative(answer, size):
    return tuple(x / jnp.asarray(s, x.dtype) for x, s in zip(answer, size, strict=True))


def hold(strategy, cell, context, order=1):
    """The surrogate and its derivatives have the right mean, as far as samples can tell."""
    program, truth = objective(CELLS[cell], strategy, context), exact(CELLS[cell], context)
    state = jax.tree.map(elsewhere, program.init(jax.random.key(1), THETA))
    answer = (*jax.value_and_grad(truth)(THETA), jax.hessian(truth)(THETA))[: order + 1]
    size = sizes(answer)

    def derivatives(key):
        surrogate = lambda t: program.surrogate(key, t, state=state)  # noqa: E731
        found = jax.value_and_grad(surrogate)(THETA)
        return relative((*found, jax.hessian(surrogate)(THETA)) if order == 2 else found, size)

    sampler = jax.jit(jax.vmap(derivatives), compiler_options=UNOPTIMIZED)
    answer = relative(answer, size)
    assert_unbiased(enough(sampler, answer, MIN_BIAS), answer, MIN_BIAS)


@pytest.mark.parametrize("strategy, cell, context", TURNS)
def test_a_pair_is_unbiased(strategy, cell, context):
    hold(STRATEGIES[strategy], cell, context)


@pytest.mark.full
@pytest.mark.parametrize("strategy, cell, context", sorted(set(ALL) - set(TURNS)))
def test_a_pair_is_unbiased_in_every_context(strategy, cell, context):
    hold(STRATEGIES[strategy], cell, context)


@dataclasses.dataclass(frozen=True)
class HalfScore(em.Score):
    """Biased: half of the score."""

    def combine(self, law, values, f):
        return f * (0.5 + 0.5 * ratio(law.log_prob(values))).astype(f.dtype)


CAUGHT = [
    pytest.param(cell, context, marks=pytest.mark.full if cell != "Weibull" or i else ())
    for cell in CELLS
    for i, context in enumerate(CONTEXTS)
]


@pytest.mark.parametrize("cell, context", CAUGHT)
def test_half_of_a_score_is_caught(cell, context):
    with pytest.raises(AssertionError, match="the mean is"):
        hold(HalfScore(), cell, context)


KINKED = {("Pathwise", "Laplace")}
SECOND = [
    (strategy, cell)
    for strategy, cell, context in ALL
    if context == "alone" and STRATEGIES[strategy].order is None and (strategy, cell) not in KINKED
]


@pytest.mark.full
@pytest.mark.parametrize("strategy, cell", SECOND)
def test_a_second_derivative_is_unbiased_where_it_is_claimed(strategy, cell):
    hold(STRATEGIES[strategy], cell, "alone", order=2)


def test_what_is_refused_is_what_the_file_says():
    """Written anew with ESTIMAND_WRITE_TABLE=1."""
    lines = []
    for strategy, cell in PAIRS:
        found = [c for c in CONTEXTS if refusal(STRATEGIES[strategy], cell, c) is not None]
        if found:
            lines.append(f"{strategy} | {cell} | {' '.join(found)}")
    if WRITING:
        REFUSED.write_text("\n".join(lines) + "\n")
    assert REFUSED.read_text().splitlines() == lines


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
    if WRITING:
        TABLE.write_text(table())
    assert TABLE.read_text() == table()
