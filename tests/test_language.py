"""`simulate` and `assess` are two readings of one density, under every control flow.

Each program of `tests.generative` is run, and what the traces say is compared with the density
written by hand.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from tests.generative import LEVELS, ROWS, normal
from tests.marks import by_default
from tests.statistics import keys

SEEDS = range(8)  # enough to take every branch
pytestmark = pytest.mark.legs


def flat(tree, prefix=""):
    """A nested dict by address."""
    found = {}
    for name, value in tree.items():
        found |= (
            flat(value, f"{prefix}{name}/")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
        )
    return found


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), one, other)


@pytest.fixture(params=ROWS)
def name(request):
    return request.param


@functools.cache
def compiled(name):
    """`simulate` and `assess` of a row, compiled once for all tests."""
    row = ROWS[name]
    run = jax.jit(lambda key: em.seed(row.program.simulate)(key, *row.args))
    return run, jax.jit(lambda choices: row.program.assess(choices, *row.args))


def test_choices_have_the_addresses_and_shapes_of_their_sites(name):
    choices = flat(compiled(name)[0](jax.random.key(0)).choices)
    assert {address: value.shape for address, value in choices.items()} == ROWS[name].shapes


def test_the_log_densities_are_those_written_by_hand_and_assess_repeats_them(name):
    row, (run, again) = ROWS[name], compiled(name)
    for seed in SEEDS:
        trace = run(jax.random.key(seed))
        expected = row.density(trace.choices, *row.args)
        assert_close(
            flat(trace.log_densities),
            {address: jnp.asarray(term) for address, term in expected.items()},
        )
        assert_close(trace.log_density, sum(jnp.sum(term) for term in expected.values()))
        assert_close(again(trace.choices), trace)


SOME = ("Straight", "Cond", "ScanOfVmap", "FactorInVmap", "ScopeAroundALoop")


@pytest.mark.parametrize("name", by_default(sorted(set(ROWS) - {"CustomRule"}), *SOME))
def test_log_density_differentiates_as_the_one_written_by_hand(name):
    row, choices = ROWS[name], compiled(name)[0](jax.random.key(0)).choices
    by_hand = jax.grad(lambda a: sum(jnp.sum(x) for x in row.density(choices, a).values()))(
        *row.args
    )
    assert_close(jax.grad(lambda a: row.program.log_density(choices, a))(*row.args), by_hand)


def test_a_density_with_a_site_inside_a_custom_rule_is_not_differentiated():
    row, choices = ROWS["CustomRule"], compiled("CustomRule")[0](jax.random.key(0)).choices
    with pytest.raises(em.EstimandError, match="custom"):
        jax.grad(lambda a: row.program.log_density(choices, a))(*row.args)


@pytest.mark.parametrize("name", by_default(list(ROWS), *SOME))
def test_vmap_of_simulate_and_assess_is_a_loop_of_them(name):
    run, again = compiled(name)
    many = jax.vmap(run)(keys(4))
    assert_close(many, jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(run, keys(4))))
    assert_close(jax.vmap(again)(many.choices), many)


def test_a_choice_in_a_branch_not_taken_is_zero_and_says_so():
    seen = set()
    for seed in SEEDS:
        trace = compiled("Cond")[0](jax.random.key(seed))
        taken = bool(trace.choices["b"])
        seen.add(taken)
        assert bool(trace.taken["y"]) == taken
        assert bool(trace.taken["x"])
        assert "b" not in trace.taken
        if not taken:
            assert trace.choices["y"] == 0 and trace.log_densities["y"] == 0
    assert seen == {True, False}


def test_choices_of_a_branch_not_taken_can_be_assessed_outside_of_jit():
    """A choice that was not taken is zero, also where zero is outside of its support."""
    row, (run, _) = ROWS["Switch"], compiled("Switch")
    traces = [run(jax.random.key(seed)) for seed in SEEDS]
    assert {int(trace.choices["z"]) for trace in traces} == {0, 1, 2}
    for trace in traces:
        assert_close(row.program.assess(trace.choices, *row.args), trace)


def test_factors_are_in_log_densities_and_not_in_choices():
    trace = compiled("Factor")[0](jax.random.key(0))
    assert set(trace.choices) == {"x"} and set(trace.log_densities) == {"x", "tilt"}


def test_a_program_under_seed_is_distributed_as_its_simulation():
    row = ROWS["Straight"]
    runs = jax.vmap(lambda key: em.seed(row.program)(key, *row.args))(keys(4000))
    values = jax.vmap(compiled("Straight")[0])(keys(4000, 1)).value
    np.testing.assert_allclose(
        runs.mean(0), values.mean(0), atol=5 * 2 * float(runs.std()) / np.sqrt(4000)
    )


INDEPENDENT = {
    "vmap": lambda draw: jax.vmap(lambda _: draw())(LEVELS),
    "vmap by axis_size": lambda draw: jax.vmap(draw, axis_size=3)(),
    "nested vmap": lambda draw: jax.vmap(lambda _: jax.vmap(lambda _: draw())(LEVELS))(LEVELS),
    "vmap of jit": lambda draw: jax.vmap(jax.jit(lambda _: draw()))(LEVELS),
    "jit of vmap": lambda draw: jax.jit(jax.vmap(lambda _: draw()))(LEVELS),
    "vmap of scan": lambda draw: jax.vmap(
        lambda _: lax.scan(lambda c, _: (c, draw()), 0, length=3)[1]
    )(LEVELS),
    "scan of vmap": lambda draw: lax.scan(
        lambda c, _: (c, jax.vmap(lambda _: draw())(LEVELS)), 0, length=3
    )[1],
    "map": lambda draw: lax.map(lambda _: draw(), LEVELS),
    "map in batches": lambda draw: lax.map(lambda _: draw(), jnp.arange(5), batch_size=2),
    "vmap of checkpoint": lambda draw: jax.vmap(jax.checkpoint(lambda _: draw()))(LEVELS),
    "vmap of cond": lambda draw: jax.vmap(lambda _: lax.cond(LEVELS[0] > 0, draw, lambda: 0.0))(
        LEVELS
    ),
    "vmap of cond on lanes": lambda draw: jax.vmap(lambda u: lax.cond(u > 0, draw, lambda: u))(
        LEVELS
    ),
    "vmap of fori_loop": lambda draw: jax.vmap(
        lambda _: lax.fori_loop(0, 2, lambda i, s: s + draw(), 0.0)
    )(LEVELS),
    "vmap of while_loop": lambda draw: jax.vmap(
        lambda _: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] + draw()), (0, 0.0))[
            1
        ]
    )(LEVELS),
    "vmap of custom_jvp": lambda draw: jax.vmap(lambda u: custom_jvp_around(draw)(u))(LEVELS),
    "vmap of custom_vjp": lambda draw: jax.vmap(lambda u: custom_vjp_around(draw)(u))(LEVELS),
    "two calls of one jit": lambda draw: jnp.stack([(shared := jax.jit(draw))(), shared()]),
    "vmap twice over one": lambda draw: jax.vmap(jax.vmap(draw, axis_size=2), axis_size=3)(),
}


def custom_jvp_around(draw):
    around = jax.custom_jvp(lambda u: u + draw())
    around.defjvp(lambda primals, tangents: (around(*primals), tangents[0]))
    return around


def custom_vjp_around(draw):
    around = jax.custom_vjp(lambda u: u + draw())
    around.defvjp(lambda u: (around(u), None), lambda _, g: (g,))
    return around


@pytest.mark.parametrize("program", INDEPENDENT.values(), ids=INDEPENDENT)
def test_lanes_and_steps_draw_independently_though_no_parameter_is_mapped(program):
    values = em.seed(lambda: program(lambda: em.draw(dist.Normal(0.0, 1.0))))(jax.random.key(0))
    assert len(np.unique(values)) == values.size > 1


def test_lanes_of_one_run_are_uncorrelated():
    run = em.seed(lambda: jax.vmap(lambda _: em.draw(dist.Normal(0.0, 1.0)))(LEVELS))
    lanes = jax.vmap(run)(keys(20_000))
    np.testing.assert_allclose(np.cov(lanes.T), np.eye(3), atol=5 * np.sqrt(2 / 20_000))


def test_a_key_may_be_typed_or_legacy():
    run = em.seed(lambda: em.draw(dist.Normal(0.0, 1.0)))
    assert run(jax.random.key(3)) == run(jax.random.PRNGKey(3))


def test_choices_are_merged_deeply():
    assert em.merge({"enc": {"z": 1}}, {"enc": {"y": 2}}, {"x": 3}) == {
        "enc": {"z": 1, "y": 2},
        "x": 3,
    }
    assert em.merge() == {}


def perhaps(u):
    return lax.cond(u > 0, lambda: em.sample("x", dist.Normal(u, 1.0)), lambda: u)


def test_vmap_around_a_generative_function_with_a_branch_is_fine():
    lanes = jax.vmap(lambda key, u: em.seed(em.gen(perhaps).simulate)(key, u))
    trace = lanes(jax.random.split(jax.random.key(0), 3), LEVELS)
    assert jnp.array_equal(trace.taken["x"], LEVELS > 0)
    expected = jnp.where(LEVELS > 0, dist.Normal(LEVELS, 1.0).log_prob(trace.choices["x"]), 0.0)
    assert jnp.allclose(trace.log_density, expected, atol=1e-5)


def test_a_draw_in_a_while_loop_runs_under_seed():
    def countdown():
        def body(s):
            return (s[0] + 1, s[1] + em.draw(dist.Normal(1.0, 0.1)))

        return lax.while_loop(lambda s: s[1] < 5.0, body, (0, 0.0))

    count, total = em.seed(countdown)(jax.random.key(0))
    assert 4 <= count <= 7 and total >= 5.0


def one(u):
    return em.sample("x", dist.Normal(u, 1.0))


@pytest.mark.parametrize("body", [one, lambda u: jax.vmap(one)(u + LEVELS).sum()])
def test_a_helper_first_traced_in_a_branch_may_be_used_outside_of_one(body):
    helper = jax.jit(body)

    @em.gen
    def program(u):
        with em.scope("a"):
            inside = lax.cond(u > 0, helper, lambda u: u, u)
        with em.scope("b"):
            return helper(inside)

    trace = em.seed(program.simulate)(jax.random.key(0), 0.5)
    assert set(flat(trace.choices)) == {"a/x", "b/x"}


def test_a_method_may_be_a_generative_function_or_an_objective():
    class Model:
        scale = 2.0

        @em.gen
        def model(self, x=1.0):
            em.sample("z", dist.Normal(x, self.scale))

        @em.expectation
        def second(self, x):
            return em.draw(dist.Normal(x, self.scale)) ** 2

    assert_close(Model().model.log_density({"z": 0.0}), normal(0.0, 1.0, 2.0))
    assert_close(Model().model.log_density({"z": 0.0}, x=3.0), normal(0.0, 3.0, 2.0))
    assert em.seed(Model().model.simulate)(jax.random.key(0), x=1e6).choices["z"] > 1e5
    assert Model().second.using({}).grad(jax.random.key(0), 1e6) > 1e6


def test_a_program_without_sites_has_density_one_and_returns_arrays():
    trace = em.seed(em.gen(lambda: {"n": 3, "x": 0.5}).simulate)(jax.random.key(0))
    assert trace.log_density == 0.0 and trace.log_density.dtype == jnp.result_type(float)
    assert trace.choices == {} and isinstance(trace.value["n"], jax.Array)
