"""The example of Attend-Infer-Repeat: every strategy takes steps; two learn to count."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

PATH = Path(__file__).parent.parent / "examples" / "air.py"
BY_DEFAULT = ("hybrid",)


def load():
    spec = importlib.util.spec_from_file_location("air", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NAMES = load().STRATEGIES


@pytest.fixture(scope="module")
def tiny():
    """Scenes of 12 pixels and small networks, hardly optimised by the compiler."""
    air = load()
    air.SIZE, air.WHAT, air.HIDDEN, air.EYE, air.BATCH = 12, 2, 4, 4, 2
    jax.config.update("jax_disable_most_optimizations", True)
    yield air
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("name", NAMES)
def test_presences_get_the_strategies_of_the_name(tiny, name):
    tiny.STEPS = 2
    images = tiny.load_scenes(train=2, test=2)[0]
    params = tiny.initialize(jax.random.key(0))
    lines = tiny.objective(name).explain(params, images).splitlines()
    _, first, last = tiny.STRATEGIES[name]
    for site, via in ("0/present", first), ("1/present", last), ("0/where", "Pathwise()"):
        (line,) = (line for line in lines if f"guide/{site}" in line)
        assert str(via) in line


@pytest.mark.parametrize(
    "name", [n if n in BY_DEFAULT else pytest.param(n, marks=pytest.mark.full) for n in NAMES]
)
def test_every_strategy_takes_steps(tiny, name):
    tiny.STEPS = 2 if name == "hybrid" else 1
    data = tiny.load_scenes(train=4, test=3)
    ((began, first, _), (ended, last, right)) = tiny.train(name, *data, steps=3)
    assert (first, last) == (1, 3) and began < ended and 0 <= right <= 1
    assert name in tiny.row(name, 1e-3, 0, [(began, first, right), (ended, last, right)])


def test_the_figure_is_drawn(tiny, tmp_path):
    tiny.draw({"Score": [(1.0, 1, 0.3), (2.0, 3, 0.4)]}, tmp_path / "air.png")
    assert (tmp_path / "air.png").stat().st_size > 10_000


def test_scenes_hold_as_many_digits_as_their_counts_say():
    air = load()
    scenes, tests, counts = air.load_scenes(train=30, test=60)
    assert scenes.shape == (30, 24, 24) and tests.shape == (60, 24, 24)
    assert set(counts) == {0, 1, 2}
    ink = [tests[counts == n].sum((1, 2)).mean() for n in range(3)]
    assert ink[0] == 0 and 1.5 < ink[2] / ink[1] < 2.5
    assert 0 <= tests.min() and tests.max() <= 1


@pytest.mark.full
@pytest.mark.parametrize("name", ["MeasureValued", "Enumerate"])
def test_it_learns_to_count(name):
    """Half a minute each on an idle core."""
    air = load()
    curve = air.train(name, *air.load_scenes(), steps=1_200, every=np.inf)
    assert curve[-1][-1] >= 0.95, air.row(name, air.RATES[0], 0, curve)
