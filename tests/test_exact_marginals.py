"""`Enumerate()` as the method of a marginal or a posterior: against the sum over all choices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from tests.cases.finite import MODELS, TABLE
from tests.marks import by_default
from tests.messages import Programs, check_message

KEY = jax.random.key(0)
UNOPTIMIZED = {"xla_backend_optimization_level": 0}
THETA = jnp.array([0.3, -0.5, 0.8])


def brute_force(program, observed, supports):
    """log sum over all assignments of exp(log density), and the posterior of each."""
    shapes = {name: np.shape(value[1]) for name, value in supports.items()}
    axes = [
        itertools.product(values, repeat=int(np.prod(shapes[name])))
        for name, (values, _) in supports.items()
    ]
    rows = list(itertools.product(*(list(axis) for axis in axes)))
    latent = {
        name: jnp.array([row[i] for row in rows]).reshape(len(rows), *shapes[name])
        for i, name in enumerate(supports)
    }

    def log_sum(theta):
        density = lambda z: program.log_density(nested({**observed, **z}), theta)  # noqa: E731
        terms = jax.vmap(density)(latent)
        some = terms > -jnp.inf
        return jax.nn.logsumexp(jnp.where(some, terms, -1e30)), terms

    return jax.jit(log_sum, compiler_options=UNOPTIMIZED), latent


def nested(flat):
    choices = {}
    for name, value in flat.items():
        *groups, last = name.split("/")
        inner = choices
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return choices


SUMMED = (
    "a_choice_for_all_and_one_for_each",
    "plate_in_plate",
    "factors_that_are_one_value_or_a_constant",
    "lanes_that_meet",
    "chain",
    "chain_backwards_from_a_constant",
    "chains_side_by_side",
    "chain_with_impossible_moves",
)
SAMPLED = ("a_choice_for_all_and_one_for_each", "lanes_that_meet", "chain", "factorial_chain")


@pytest.mark.parametrize("name", by_default(list(MODELS), *SUMMED))
def test_a_marginal_is_the_sum_over_all_choices(name):
    program, observed, supports = MODELS[name]
    log_sum, _ = brute_force(program, observed, supports)
    marginal = program.marginal(keep=tuple(observed), via=em.Enumerate())

    def exact(theta):
        return em.seed(marginal.log_density)(KEY, nested(observed), theta)

    found, slope = jax.jit(jax.value_and_grad(exact), compiler_options=UNOPTIMIZED)(THETA)
    assert np.allclose(found, log_sum(THETA)[0], rtol=1e-5)
    step = 1e-2 * jnp.eye(3)
    numeric = [(log_sum(THETA + h)[0] - log_sum(THETA - h)[0]) / 2e-2 for h in step]
    assert np.allclose(slope, numeric, atol=5e-3)


@pytest.mark.parametrize("name", by_default(list(MODELS), *SAMPLED))
def test_a_posterior_is_sampled_and_scored_exactly(name):
    program, observed, supports = MODELS[name]
    log_sum, latent = brute_force(program, observed, supports)
    total, terms = log_sum(THETA)
    posterior = program.normalize(nested(observed), via=em.Enumerate())
    n = 20_000

    def draw(key):
        trace = em.seed(posterior.simulate)(key, THETA)
        flat = {k: _at(trace.choices, k).reshape(-1) for k in supports}
        return jnp.concatenate([flat[k] for k in supports]), trace.log_density

    drawn, density = jax.jit(jax.vmap(draw), compiler_options=UNOPTIMIZED)(jax.random.split(KEY, n))
    rows = jnp.concatenate([latent[k].reshape(len(terms), -1) for k in supports], axis=1)
    index = {tuple(row): i for i, row in enumerate(np.asarray(rows).tolist())}
    picked = np.array([index[tuple(row)] for row in np.asarray(drawn).tolist()])
    p = np.exp(np.asarray(terms - total, np.float64))
    assert np.allclose(density, (terms - total)[picked], atol=1e-4)
    counts = np.bincount(picked, minlength=len(p))
    often = p * n > 8
    counts, p = (np.append(x[often], x[~often].sum()) for x in (counts, p))
    z = (counts - n * p) / np.sqrt(n * p * (1 - p) + 1.0)
    assert np.abs(z).max() < 4.5


def _at(choices, name):
    for part in name.split("/"):
        choices = choices[part]
    return choices


@em.gen
def mixture(theta, n):
    def one(_):
        z = em.sample("z", dist.Categorical(logits=theta))
        em.sample("x", dist.Normal(theta[z], 0.5))

    jax.vmap(one)(jnp.arange(n))


@em.gen
def markov(theta, n):
    def step(z, _):
        z = em.sample("z", dist.Categorical(TABLE[z] * jax.nn.softmax(theta)))
        em.sample("x", dist.Normal(theta[z], 0.5))
        return z, None

    lax.scan(step, em.sample("first", dist.Categorical(logits=theta)), None, length=n)


def closed_mixture(theta, x):
    terms = jax.nn.log_softmax(theta) + dist.Normal(theta, 0.5).log_prob(x[:, None])
    return jnp.sum(jax.nn.logsumexp(terms, axis=1))


def forward_algorithm(theta, x):
    moves = TABLE * jax.nn.softmax(theta)
    moves = jnp.log(moves / jnp.sum(moves, axis=1, keepdims=True))

    def step(alpha, x):
        alpha = jax.nn.logsumexp(alpha[:, None] + moves, axis=0)
        return alpha + dist.Normal(theta, 0.5).log_prob(x), None

    return jax.nn.logsumexp(lax.scan(step, jax.nn.log_softmax(theta), x)[0])


LARGE = {"plate": (mixture, closed_mixture, 1_000, 5), "chain": (markov, forward_algorithm, 200, 3)}


@pytest.mark.legs
@pytest.mark.parametrize("name", LARGE)
def test_large_ones_are_their_closed_forms_in_programs_of_constant_size(name):
    program, closed, n, k = LARGE[name]
    theta = jnp.linspace(-1.0, 1.5, k)
    marginal = program.marginal(keep="x", via=em.Enumerate())

    def exact(theta, x):
        return em.seed(marginal.log_density)(KEY, {"x": x}, theta, len(x))

    x = jax.random.normal(KEY, (n,))
    found, slope = jax.jit(jax.value_and_grad(exact))(theta, x)
    truth, answer = jax.value_and_grad(closed)(theta, x)
    assert np.allclose(found, truth, rtol=1e-5) and np.allclose(slope, answer, rtol=1e-5, atol=2e-3)
    sizes = {len(str(jax.make_jaxpr(exact)(theta, x[:m])).splitlines()) for m in (n // 10, n)}
    assert len(sizes) == 1


BAD = Programs()


def assess(program, keep, *args, via=None):
    marginal = em.gen(program).marginal(keep=keep, via=via or em.Enumerate())
    return em.seed(marginal.simulate)(KEY, *args)


@BAD
def a_continuous_latent_choice():
    def program():
        em.sample("x", dist.Normal(em.sample("u", dist.Normal(0.0, 1.0)), 1.0))

    assess(program, "x")


@BAD
def a_support_of_unknown_size():
    def program(n):
        em.sample("x", dist.Normal(em.sample("z", dist.Binomial(n, 0.5)).astype(float), 1.0))

    assess(program, "x", jnp.array(3))


@BAD
def a_posterior_of_a_marginals_choice():
    inner = em.gen(lambda: em.sample("k", dist.Bernoulli(0.5))).marginal(keep="k")

    @em.gen
    def program():
        em.sample("x", dist.Normal(inner()["k"].astype(float), 1.0))

    em.seed(program.normalize({"x": 0.3}, via=em.Enumerate()).simulate)(KEY)


@BAD
def a_choice_of_a_loop_that_is_used_after_it():
    def program():
        step = lambda c, _: (c, em.sample("z", dist.Bernoulli(0.5)))  # noqa: E731
        zs = lax.scan(step, 0.0, None, length=50)[1]
        em.sample("x", dist.Normal(zs.astype(float), 1.0))

    assess(program, "x")


@BAD
def a_carry_that_remembers_every_step():
    def program():
        def step(total, _):
            total = total + em.sample("z", dist.Bernoulli(0.5))
            em.sample("x", dist.Normal(total.astype(float), 1.0))
            return total, None

        lax.scan(step, jnp.array(0), None, length=50)

    assess(program, "x")


@BAD
def too_many_choices_that_meet():
    def program():
        z = em.sample("z", dist.Bernoulli(jnp.full(20, 0.5)))
        em.sample("x", dist.Normal(jnp.tanh(jnp.sum(z.astype(float))), 1.0))

    assess(program, "x")


@BAD
def a_latent_choice_in_a_branch():
    def program():
        flip = lambda p: em.sample("z", dist.Bernoulli(p))  # noqa: E731
        z = lax.cond(em.sample("b", dist.Bernoulli(0.5)) == 1, flip, lambda p: flip(1 - p), 0.3)
        em.sample("x", dist.Normal(z.astype(float), 1.0))

    assess(program, ("x", "b"))


@BAD.each()
def test_what_cannot_be_summed_is_refused(name, program):
    check_message(f"exact marginals: {name}", program)
