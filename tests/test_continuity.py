"""A pathwise value that reaches a discontinuity is refused by the name of the operation, and
ordinary code is not.

Everything is decided while tracing, so nothing here is compiled.
"""

import jax
import jax.experimental
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from jax import lax

import estimand as em

THETA = jnp.array([0.3, -0.2, 0.8])
pytestmark = pytest.mark.legs
SITE = r"'(objective/)?x'(.|\n)*test_continuity\.py:\d+"
KNOTS = jnp.array([-1.0, 0.0, 1.0])


def trace(f, via=None, wrap=lambda x: x, theta=THETA):
    """Build the gradient of E[f(x)], x three normals at theta, without running it."""

    @em.expectation
    def objective(t):
        return f(wrap(em.sample("x", dist.Normal(t, 1.0), via=via))).sum()

    return jax.eval_shape(objective.grad, jax.random.key(0), theta)


@jax.jit
def norm(x):
    """Has the name of a function of JAX that is known to be continuous, and is not."""
    return jnp.floor(x)


def log_density(law):
    return lambda u: em.gen(lambda: em.sample("y", law)).log_density({"y": u})


LAPLACE, NORMAL = log_density(dist.Laplace(0.0, 1.0)), log_density(dist.Normal(0.0, 1.0))


def symmetric(x):
    return jnp.outer(x, x) + jnp.eye(3)


def as_complex(x):
    return lax.complex(x, jnp.zeros_like(x))


def counted_in_a_scan(x):
    return lax.scan(lambda n, u: (n + (u > 0).astype(int), n), jnp.zeros((), int), x)[0].astype(
        float
    )


DISCONTINUOUS = {
    "gt": lambda x: jnp.where(x > 0, x, 2.0),
    "le": lambda x: (x <= 0.5).astype(float),
    "eq": lambda x: jnp.where(x == 0, 1.0, x),
    "ne with another value": lambda x: jnp.where(x != 0, 1.0, x),
    "floor": jnp.floor,
    "ceil": jnp.ceil,
    "round": jnp.round,
    "trunc": jnp.trunc,
    "sign": jnp.sign,
    "rem": lambda x: x % 1.0,
    "fmod": lambda x: jnp.fmod(x, 1.0),
    "floor division": lambda x: x // 1.0,
    "atan2": lambda x: jnp.arctan2(x, KNOTS),
    "heaviside": lambda x: jnp.heaviside(x, 0.5),
    "copysign": lambda x: jnp.copysign(2.0, x),
    "cast to int": lambda x: x.astype(int).astype(float),
    "cast to bool": lambda x: x.astype(bool).astype(float),
    "bitcast": lambda x: lax.bitcast_convert_type(x, jnp.uint8).astype(float),
    "reduce_precision": lambda x: lax.reduce_precision(x, 5, 2),
    "argmax": lambda x: KNOTS[jnp.argmax(x)],
    "argsort": lambda x: KNOTS[jnp.argsort(x)],
    "sort of pairs": lambda x: lax.sort((x, KNOTS), num_keys=1)[1],
    "top_k indices": lambda x: KNOTS[lax.top_k(x, 2)[1]],
    "searchsorted": lambda x: jnp.searchsorted(KNOTS, x).astype(float),
    "digitize": lambda x: jnp.digitize(x, KNOTS).astype(float),
    "cond predicate": lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x),
    "switch index": lambda x: lax.switch(x[0].astype(int), [jnp.sin, jnp.cos], x),
    "while predicate": lambda x: lax.while_loop(lambda i: i < x[0], lambda i: i + 1, 0.0),
    "fori bound": lambda x: lax.fori_loop(0, x[0].astype(int), lambda i, s: s + 1.0, 0.0),
    "eigh": lambda x: jnp.linalg.eigh(symmetric(x))[1],
    "qr": lambda x: jnp.linalg.qr(symmetric(x))[0],
    "svd": lambda x: jnp.linalg.svd(symmetric(x))[0],
    "lu": lambda x: jsp.linalg.lu(symmetric(x))[1],
    "complex log": lambda x: jnp.log(as_complex(x)).imag,
    "complex arctan": lambda x: jnp.arctan(as_complex(x)).real,
    "complex sqrt": lambda x: jnp.sqrt(as_complex(x)).imag,
    "in a scan": counted_in_a_scan,
    "in a jit": lambda x: jax.jit(lambda u: jnp.where(u > 0, 1.0, u))(x),
    "in a checkpoint": lambda x: jax.checkpoint(lambda u: jnp.where(u > 0, 1.0, u))(x),
    "in a vmap": lambda x: jax.vmap(lambda u: lax.cond(u > 0, lambda: 1.0, lambda: u))(x),
    "a function of the user's, named as one of JAX's": norm,
    "interp that jumps at its end": lambda x: jnp.interp(x, KNOTS, KNOTS, left=5.0),
    "safe where": lambda x: jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)), 0.0),
    "sign of a determinant": lambda x: jnp.linalg.slogdet(jnp.diag(x))[0],
    "derivative of abs": jax.vmap(jax.grad(jnp.abs)),
    "derivative of relu": jax.vmap(jax.grad(jax.nn.relu)),
    "derivative of celu": jax.vmap(jax.grad(jax.nn.celu)),
    "derivative of a norm": jax.grad(lambda x: jnp.linalg.norm(x, ord=1)),
    "derivative of max-pooling": jax.grad(
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (1,), "VALID").sum()
    ),
    "frexp": lambda x: jnp.frexp(x)[0],
    "nonzero": lambda x: jnp.nonzero(x, size=3)[0].astype(float),
    "derivative of a density with a kink": lambda x: jax.vmap(jax.grad(LAPLACE))(x),
    "derivative of leaky_relu": jax.vmap(jax.grad(jax.nn.leaky_relu)),
    "derivative of interp": jax.vmap(jax.grad(lambda u: jnp.interp(u, KNOTS, KNOTS**2))),
    "derivative of max": jax.grad(jnp.max),
    "derivative of clip": jax.vmap(jax.grad(lambda u: jnp.clip(u, -1.0, 1.0))),
    "derivative of hard_tanh, under its name": jax.jit(jax.vmap(jax.grad(jax.nn.hard_tanh))),
    "derivative of relu, under its name": jax.jit(jax.vmap(jax.grad(jax.nn.relu))),
    "a rectified value compared with its edge": lambda x: (jax.nn.relu(x) > 0.0).astype(float),
    "approximate top_k indices": lambda x: KNOTS[lax.approx_max_k(x, 1)[1]],
    "nearest-neighbour sampling": lambda x: jsp.ndimage.map_coordinates(KNOTS, [x], order=0),
}


@pytest.mark.parametrize("f", DISCONTINUOUS.values(), ids=DISCONTINUOUS)
def test_a_discontinuity_is_refused_unless_vouched_for_or_scored(f):
    with pytest.raises(em.EstimandError, match=rf"{SITE}(.|\n)*assume_continuous"):
        trace(f)
    trace(f, wrap=em.assume_continuous)
    trace(f, via=em.Score())


@pytest.mark.parametrize("callback", [jax.pure_callback, jax.experimental.io_callback])
def test_an_opaque_callback_counts_as_a_discontinuity(callback):
    def opaque(x):
        return callback(np.asarray, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    with pytest.raises(em.EstimandError, match=rf"{SITE}(.|\n)*{callback.__name__}"):
        trace(opaque)
    trace(opaque, via=em.Score())


NAMES = {
    "gt": "gt",
    "floor": "floor",
    "sign": "sign",
    "rem": "rem",
    "atan2": "atan2",
    "cast to int": "convert_element_type",
    "argmax": "argmax",
    "argsort": "sort",
    "cond predicate": "gt|cond",
    "while predicate": "lt|while",
    "eigh": "eigh",
    "reduce_precision": "reduce_precision",
}


@pytest.mark.parametrize("case, operation", NAMES.items(), ids=NAMES)
def test_the_refusal_names_the_operation(case, operation):
    with pytest.raises(em.EstimandError, match=operation):
        trace(DISCONTINUOUS[case])


def bilinear(x):
    image = jnp.arange(12.0).reshape(3, 4)
    return jsp.ndimage.map_coordinates(image, [x, 0.5 * x], order=1)


ACTIVATIONS = {
    name: getattr(jax.nn, name)
    for name in (
        "relu relu6 leaky_relu elu selu celu gelu silu sigmoid softplus squareplus mish tanh "
        "log_sigmoid hard_tanh hard_sigmoid hard_silu soft_sign softmax log_softmax"
    ).split()
}

CONTINUOUS = {
    "maximum": lambda x: jnp.maximum(x, 0.1),
    "minimum": lambda x: jnp.minimum(x, KNOTS),
    "max": jnp.max,
    "min": jnp.min,
    "abs": jnp.abs,
    "clip": lambda x: jnp.clip(x, -1.0, 1.0),
    "logaddexp": lambda x: jnp.logaddexp(x, KNOTS),
    "logsumexp": jax.nn.logsumexp,
    "xlogy": lambda x: jsp.special.xlogy(jnp.exp(x), jnp.exp(x)),
    "entr": lambda x: jsp.special.entr(jnp.exp(x)),
    "log_ndtr": jsp.special.log_ndtr,
    "ndtri": lambda x: jsp.special.ndtri(jax.nn.sigmoid(x)),
    "gammaln": lambda x: jsp.special.gammaln(jnp.exp(x)),
    "betaln": lambda x: jsp.special.betaln(jnp.exp(x), 2.0),
    "binary cross-entropy": lambda x: optax.sigmoid_binary_cross_entropy(x, KNOTS),
    "softmax cross-entropy": lambda x: optax.softmax_cross_entropy_with_integer_labels(x, 1),
    "fmax": lambda x: jnp.fmax(x, 0.1),
    "log1mexp": lambda x: jax.nn.log1mexp(jnp.exp(x)),
    "derivative of a smooth density": lambda x: jax.vmap(jax.grad(NORMAL))(x),
    "derivative of softplus": jax.vmap(jax.grad(jax.nn.softplus)),
    "derivative of logsumexp": jax.grad(jax.nn.logsumexp),
    "derivative of logaddexp": jax.vmap(jax.grad(lambda u: jnp.logaddexp(u, 0.3))),
    "a positive value compared with zero": lambda x: jnp.where(jnp.exp(x) > 0.0, x, 0.0),
    "det": lambda x: jnp.linalg.det(symmetric(x)),
    "slogdet": lambda x: jnp.linalg.slogdet(symmetric(x))[1],
    "inverse": lambda x: jnp.linalg.inv(symmetric(x)),
    "solve": lambda x: jnp.linalg.solve(symmetric(x), KNOTS),
    "cholesky": lambda x: jnp.linalg.cholesky(symmetric(x)),
    "cho_solve": lambda x: jsp.linalg.cho_solve(jsp.linalg.cho_factor(symmetric(x)), KNOTS),
    "eigenvalues": lambda x: jnp.linalg.eigvalsh(symmetric(x)),
    "singular values": lambda x: jnp.linalg.svd(symmetric(x), compute_uv=False),
    "expm": lambda x: jsp.linalg.expm(symmetric(x)),
    "norm": jnp.linalg.norm,
    "interp": lambda x: jnp.interp(x, KNOTS, KNOTS**2),
    "bilinear sampling": bilinear,
    "sort": jnp.sort,
    "median": jnp.median,
    "top_k values": lambda x: lax.top_k(x, 2)[0],
    "cumulative maximum": lambda x: lax.cummax(x),
    "is not a number": lambda x: jnp.where(x != x, 0.0, x),
    "nan_to_num": jnp.nan_to_num,
    "isnan": lambda x: jnp.where(jnp.isnan(x), 0.0, x),
    "isfinite": lambda x: jnp.where(jnp.isfinite(x), x, 0.0),
    "nansum": jnp.nansum,
    "comparison of something detached": lambda x: jnp.where(lax.stop_gradient(KNOTS) > 0, x, 2 * x),
    "one_hot mask of constants": lambda x: jnp.where(jnp.arange(3) == 1, x, 0.0),
    "variance and mean": lambda x: (x - x.mean()) / jnp.sqrt(x.var() + 1e-5),
    "convolution": lambda x: jnp.convolve(x, KNOTS),
    "einsum": lambda x: jnp.einsum("i,ij->j", x, symmetric(x)),
    "power": lambda x: jnp.exp(x) ** 1.5,
    "scan": lambda x: lax.scan(lambda c, u: (jnp.tanh(c + u), c), 0.0, x)[1],
    "a loop of fixed length": lambda x: lax.fori_loop(0, 3, lambda i, s: s * jnp.sin(x), x),
    "branch on a constant": lambda x: lax.cond(KNOTS[0] > 0, jnp.sin, jnp.cos, x),
    "dynamic slice": lambda x: lax.dynamic_slice(x, (jnp.argmax(KNOTS),), (1,)),
}


@pytest.mark.parametrize("f", CONTINUOUS.values(), ids=CONTINUOUS)
def test_a_continuous_function_raises_no_alarm(f):
    trace(f, via=em.Pathwise())


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_a_network_raises_no_alarm(activation):
    def network(x):
        hidden = activation(symmetric(KNOTS) @ x + 0.1)
        return activation(symmetric(KNOTS) @ hidden)

    trace(network, via=em.Pathwise())


def test_dropout_is_no_discontinuity_because_its_noise_has_no_parameters():
    @em.expectation
    def objective(t):
        keep = em.sample("keep", dist.Uniform(jnp.zeros(3), 1.0)) < 0.8
        return (jnp.where(keep, em.sample("x", dist.Normal(t, 1.0)), 0.0) ** 2).sum()

    jax.eval_shape(objective.grad, jax.random.key(0), THETA)
    with pytest.raises(em.EstimandError, match="keep"):
        jax.eval_shape(trace_threshold.grad, jax.random.key(0), THETA)


@em.expectation
def trace_threshold(t):
    keep = em.sample("keep", dist.Uniform(jnp.zeros(3), jnp.exp(t))) < 0.8
    return jnp.where(keep, t, 0.0).sum()


def test_a_detached_value_may_be_compared():
    trace(lambda x: jnp.where(lax.stop_gradient(x) > 0, 1.0, 2.0), wrap=em.detach)


def test_a_discontinuity_that_only_static_arguments_reach_is_fine():
    @em.expectation
    def objective(t, width):
        x = em.sample("x", dist.Normal(0.0, 1.0))
        return jnp.where(x > width, t, 2 * t).sum()

    jax.eval_shape(lambda key, t: objective.grad(key, t, 2), jax.random.key(0), THETA)


@em.expectation
def binarised(weights, image):
    """Stochastic binarisation: the image moves a comparison, the weights do not."""
    pixels = em.sample("noise", dist.Uniform(jnp.zeros(3), 1.0)) < image
    return jnp.where(pixels, weights, 0.0).sum()


def test_an_objective_may_hold_a_discontinuity_as_long_as_nothing_that_moves_it_is_differentiated():
    args = jnp.ones(3), jnp.array([0.0, 1.0, 1.0])
    assert binarised.estimate(jax.random.key(0), *args) == 2.0
    assert "Uniform" in binarised.explain(*args)
    np.testing.assert_array_equal(
        jax.grad(binarised.surrogate, 1)(jax.random.key(0), *args), args[1]
    )
    with pytest.raises(em.EstimandError, match=r"'noise'(.|\n)*test_continuity\.py:\d+"):
        jax.grad(binarised.surrogate, 2)(jax.random.key(0), *args)
    with pytest.raises(em.EstimandError, match="'noise'"):
        binarised.grad(jax.random.key(0), *args, argnums=1)
