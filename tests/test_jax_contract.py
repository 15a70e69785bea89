"""What the library relies on in JAX beyond its documented interface.

JAX promises nothing about `jax.core`, `jax.extend` and `jax.interpreters`. A new release that
breaks one of these tests breaks the library; the test says which reliance it was.
"""

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core.primitives import cond_p
from jax.interpreters import ad, batching, mlir

from estimand.transforms import jaxprs

NAMES = {
    jax.core: ("ShapedArray", "Tracer"),
    jex: (
        "Primitive",
        "Jaxpr",
        "ClosedJaxpr",
        "JaxprEqn",
        "Var",
        "Literal",
        "jaxpr_as_fun",
        "DebugInfo",
    ),
    ad: ("primitive_jvps",),
    batching: ("fancy_primitive_batchers", "primitive_batchers"),
    mlir: ("register_lowering",),
}


@pytest.mark.parametrize("module", NAMES, ids=lambda module: module.__name__)
def test_the_names_are_there(module):
    assert [name for name in NAMES[module] if not hasattr(module, name)] == []


def equation(fun, *args):
    """The one equation of a function's jaxpr."""
    (eqn,) = jax.make_jaxpr(fun)(*args).jaxpr.eqns
    return eqn


@jax.custom_jvp
def doubled(x):
    return 2 * x


doubled.defjvp(lambda primals, tangents: (doubled(*primals), 2 * tangents[0]))


@jax.custom_vjp
def tripled(x):
    return 3 * x


tripled.defvjp(lambda x: (tripled(x), None), lambda _, g: (3 * g,))

X = 1.0
pytestmark = pytest.mark.legs
HIGHER_ORDER = {
    "jit": (jax.jit(jnp.sin), {"jaxpr", "name"}),
    "custom_jvp_call": (doubled, {"call_jaxpr"}),
    "custom_vjp_call": (tripled, {"call_jaxpr"}),
    "checkpoint": (jax.checkpoint(jnp.sin), {"jaxpr", "prevent_cse", "policy"}),
    "cond": (lambda x: lax.cond(True, jnp.sin, jnp.cos, x), {"branches"}),
    "scan": (
        lambda x: lax.scan(lambda c, _: (c + x, None), x, length=3)[0],
        {"jaxpr", "length", "reverse", "unroll"},
    ),
    "while": (
        lambda x: lax.while_loop(lambda c: c < 3.0, lambda c: c + 1.0, x),
        {"cond_jaxpr", "body_jaxpr", "cond_nconsts", "body_nconsts"},
    ),
}


@pytest.mark.parametrize("name", HIGHER_ORDER)
def test_an_equation_with_a_body_has_the_name_and_parameters_that_are_read(name):
    fun, params = HIGHER_ORDER[name]
    eqn = jax.make_jaxpr(fun)(X).jaxpr.eqns[-1]
    assert eqn.primitive.name in (name, {"checkpoint": "remat2"}.get(name))
    assert params <= set(eqn.params)
    assert all(hasattr(body, "eqns") or hasattr(body, "jaxpr") for body in jaxprs.subjaxprs(eqn))
    assert list(jaxprs.subjaxprs(eqn))


EVALUATED = {
    **{name: fun for name, (fun, _) in HIGHER_ORDER.items()},
    "add": lambda x: x + x,
    "literal": lambda x: x * 2.0,
}


@pytest.mark.parametrize("name", EVALUATED)
def test_one_equation_can_be_run_and_differentiated_alone(name):
    fun = EVALUATED[name]
    eqn = jax.make_jaxpr(fun)(X).jaxpr.eqns[-1]

    def alone(x):
        operands = [v.val if isinstance(v, jaxprs.Literal) else x for v in eqn.invars]
        return jaxprs.evaluate(eqn, *operands)[0]

    assert jnp.allclose(alone(X), fun(X))
    if name != "while":
        assert jnp.allclose(jax.grad(alone)(X), jax.grad(fun)(X))


def test_a_scan_says_how_many_constants_and_carries_it_has():
    y = jnp.arange(3.0)

    def fun(x):
        return lax.scan(lambda c, u: ((c[0] + x, c[0] * c[1]), u), (x, 2 * x), y)

    eqn = jax.make_jaxpr(fun)(X).jaxpr.eqns[-1]
    assert jaxprs.scan_arity(eqn) == (1, 2)


def test_named_scopes_are_read_from_equations_also_inside_cached_and_mapped_functions():
    helper = jax.jit(jnp.sin)

    def fun(x):
        with jax.named_scope(jaxprs.SCOPE + "a"):
            first = helper(x)
        with jax.named_scope(jaxprs.SCOPE + "b"), jax.named_scope("not an address"):
            return first, helper(x), jax.vmap(helper)(jnp.stack([x, x]))

    eqns = [e for e in jax.make_jaxpr(fun)(X).jaxpr.eqns if e.primitive.name in ("jit", "pjit")]
    assert [jaxprs.scopes(eqn) for eqn in eqns] == [("a",), ("b",), ("b",)]


def test_a_fancy_batching_rule_is_asked_although_no_operand_is_mapped():
    asked = []
    probe = jex.Primitive("probe")
    probe.def_abstract_eval(lambda x: x)

    def rule(axis_data, args, dims):
        asked.append((axis_data.size, dims))
        return probe.bind(*args), None

    batching.fancy_primitive_batchers[probe] = rule
    jax.make_jaxpr(jax.vmap(lambda _: probe.bind(X)))(jnp.arange(3))
    assert asked == [(3, (None,))]


def test_an_equation_remembers_the_line_of_the_user():
    eqn = equation(lambda x: jnp.sin(x), X)
    assert any(f.file_name == __file__ for f in eqn.source_info.traceback.frames)


def test_the_batching_rule_of_a_cond_can_be_wrapped_and_is_given_the_branches():
    """Its own rule makes a select of a cond with a mapped predicate; ours looks first."""
    seen = []
    rule = batching.fancy_primitive_batchers[cond_p]

    def wrapped(axis_data, args, dims, **params):
        seen.append((dims[0], len(params["branches"])))
        return rule(axis_data, args, dims, **params)

    batching.fancy_primitive_batchers[cond_p] = wrapped
    try:
        mapped = jax.vmap(lambda x, y: lax.cond(x > 0, jnp.sin, jnp.cos, y), (0, None))
        jax.make_jaxpr(mapped)(jnp.arange(3.0), X)
        mapped = jax.vmap(lambda x, y: lax.cond(x > 0, jnp.sin, jnp.cos, y), (None, 0))
        jaxpr = jax.make_jaxpr(mapped)(X, jnp.arange(3.0))
    finally:
        batching.fancy_primitive_batchers[cond_p] = rule
    assert seen == [(0, 2), (None, 2)]
    assert "cond" in [eqn.primitive.name for eqn in jaxpr.jaxpr.eqns]


def test_the_equations_of_a_jaxpr_can_be_replaced():
    jaxpr = jax.make_jaxpr(jax.jit(lambda x: jnp.sin(x) + jnp.arange(3.0)))(X)
    eqn = jaxpr.jaxpr.eqns[0]
    (body,) = jaxprs.subjaxprs(eqn)
    swapped = [e.replace(params={**e.params}) for e in body.jaxpr.eqns]
    assert jaxprs.replace_jaxprs(eqn, lambda body: body) is eqn
    again = jaxprs.replace_jaxprs(eqn, lambda body: jaxprs.with_equations(body, swapped))
    assert again is not eqn and jnp.allclose(*[jaxprs.evaluate(e, X)[0] for e in (eqn, again)])


def test_an_equation_made_by_differentiating_is_marked():
    def marks(fun):
        eqns = jax.make_jaxpr(fun)(X).jaxpr.eqns
        return [jaxprs.is_derivative(eqn) for eqn in eqns]

    assert not any(marks(jnp.sin)) and any(marks(jax.grad(jnp.sin)))


def test_a_call_remembers_the_function_that_it_calls():
    name, line = jaxprs.called(equation(jax.jit(helper), X))
    assert name == "helper" and line.startswith("test_jax_contract.py:")


def helper(x):
    return jnp.sin(x)
