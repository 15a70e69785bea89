"""`save` and `load`: what went in comes back bit for bit, or an error names the leaf."""

import math
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import estimand as em
from tests.messages import check_message


class Pair(NamedTuple):
    first: object
    second: object


def same(a, b):
    """Same type, and same bits."""
    if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        return a.dtype == b.dtype and same(jax.random.key_data(a), jax.random.key_data(b))
    if isinstance(a, jax.Array | np.ndarray | np.generic):
        x, y = np.asarray(a), np.asarray(b)
        kinds = (jax.Array, np.ndarray, np.generic)
        alike = all(isinstance(a, kind) == isinstance(b, kind) for kind in kinds)
        return alike and x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    return type(a) is type(b) and repr(a) == repr(b)


LEAVES = {
    "float32": jnp.array([1.5, -0.0, jnp.nan, jnp.inf, 1e-45], jnp.float32),
    "bfloat16": jnp.array([[1.5, -2.0], [0.1, jnp.nan]], jnp.bfloat16),
    "float8": jnp.array([0.5, 448.0], jnp.float8_e4m3fn),
    "int4": jnp.array([-8, 7], jnp.int4),
    "bfloat16 scalar": jnp.array(0.1, jnp.bfloat16),
    "empty bfloat16": jnp.zeros((0, 3), jnp.bfloat16),
    "int32 scalar": jnp.array(-7, jnp.int32),
    "uint8": jnp.arange(5, dtype=jnp.uint8),
    "bool": jnp.array([True, False]),
    "complex": jnp.array([1 + 2j], jnp.complex64),
    "empty": jnp.zeros((3, 0)),
    "legacy key": jax.random.PRNGKey(3),
    "key": jax.random.key(3),
    "keys": jax.random.split(jax.random.key(3, impl="rbg"), (2, 2)),
    "numpy float64": np.array([math.pi, -0.0]),
    "numpy int64": np.array(2**62),
    "numpy scalar": np.float64(math.pi),
    "numpy big-endian": np.array([1, 2], ">i2"),
    "numpy transposed": np.arange(6).reshape(2, 3).T,
    "numpy strings": np.array(["a", "bc"]),
    "numpy records": np.array([(1, 2.0)], [("n", "i4"), ("x", "f8")]),
    "python int": 2**200,
    "python float": 0.1 + 0.2,
    "python nan": float("nan"),
    "python complex": complex(-0.0, 0.1),
    "python bool": True,
    "python str": "naïve / ['x']",
    "none": None,
}


@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_survives(name, tmp_path):
    em.save(tmp_path / "leaf.npz", LEAVES[name])
    assert same(em.load(tmp_path / "leaf.npz", like=LEAVES[name]), LEAVES[name])


@pytest.mark.legs
def test_a_tree_of_everything_survives(tmp_path):
    tree = Pair({"all": LEAVES, "a/b": (), "": []}, [jnp.tanh, (LEAVES["key"], None)])
    em.save(tmp_path / "tree", tree)
    again = em.load(tmp_path / "tree", like=tree)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    assert all(map(same, jax.tree.leaves(again), jax.tree.leaves(tree)))
    assert os.listdir(tmp_path) == ["tree"], "one file, of the name that was asked for"


@pytest.mark.legs
def test_sixty_four_bits_of_jax_survive(tmp_path):
    with jax.enable_x64(True):
        wide = jnp.array([math.pi, 1e300]), jnp.array(2**40)
        assert wide[0].dtype == jnp.float64
        em.save(tmp_path / "wide.npz", wide)
        assert all(map(same, em.load(tmp_path / "wide.npz", like=wide), wide))
    with jax.enable_x64(False), pytest.raises(em.EstimandError, match=r"\[0\]: float32\[2\]"):
        em.load(tmp_path / "wide.npz", like=(jnp.zeros(2), jnp.array(0)))


def test_values_of_like_are_not_looked_at(tmp_path):
    em.save(tmp_path / "x.npz", {"w": jnp.ones((2, 3)), "k": jax.random.key(1)})
    like = jax.eval_shape(lambda: {"w": jnp.zeros((2, 3)), "k": jax.random.key(0)})
    loaded = em.load(tmp_path / "x.npz", like=like)
    assert same(loaded["w"], jnp.ones((2, 3)))
    assert same(loaded["k"], jax.random.key(1))


def test_an_ellipsis_takes_what_there_is(tmp_path):
    em.save(tmp_path / "x.npz", (jnp.arange(4), 7, jax.random.key(2)))
    array, number, key = em.load(tmp_path / "x.npz", like=(..., ..., ...))
    assert same(array, np.arange(4, dtype=np.int32 if array.dtype == np.int32 else np.int64))
    assert number == 7
    assert same(key, jax.random.key(2))


BASE = {"enc": {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)}, "n": 3, "f": jnp.tanh, "none": None}
OTHERS = {
    "shape": (
        {"enc": {"w": jnp.zeros((3, 2)), "b": jnp.zeros(3)}},
        r"expected: \['enc'\]\['w'\]: float\d+\[3, 2\]\n +got: +\['enc'\]\['w'\]: float\d+\[2, 3\]",
    ),
    "dtype": (
        {"enc": {"w": jnp.zeros((2, 3), jnp.bfloat16), "b": jnp.zeros(3)}},
        r"expected: \['enc'\]\['w'\]: bfloat16\[2, 3\]",
    ),
    "missing": ({"enc": {"w": jnp.zeros((2, 3))}}, r"expected: \['enc'\]\['b'\]: nothing"),
    "more": ({"extra": jnp.zeros(1)}, r"got: +\['extra'\]: nothing"),
    "python for array": ({"enc": {"w": 0.0, "b": jnp.zeros(3)}}, r"\['enc'\]\['w'\]: float\n"),
    "array for python": ({"n": jnp.array(3)}, r"expected: \['n'\]: int"),
    "float for int": ({"n": 3.0}, r"expected: \['n'\]: float"),
    "leaf for none": ({"none": 1}, r"expected: \['none'\]: int"),
    "another function": ({"f": jnp.sin}, r"\['f'\]: code sin"),
    "an ellipsis for code": ({"f": ...}, r"\['f'\]: code tanh"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_tree_is_refused_by_the_path_of_its_leaf(name, tmp_path):
    changed, message = OTHERS[name]
    em.save(tmp_path / "base.npz", BASE)
    with pytest.raises(em.EstimandError, match=message):
        em.load(tmp_path / "base.npz", like={**BASE, **changed})


def test_every_difference_is_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    em.save("base.npz", {"a": 1, "b": 2, "c": 3})
    like = {"a": 1.0, "b": 2, "d": 3}
    check_message("loading another tree", em.load, "base.npz", like=like)
    np.save("other.npy", np.zeros(2))
    check_message("loading another file", em.load, "other.npy", like=like)


def test_what_is_no_data_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(em.EstimandError, match=r"\['x'\].*cannot be saved"):
        em.save(tmp_path / "x.npz", {"x": object()})
    check_message("saving an object", em.save, tmp_path / "x.npz", {"x": np.ma.array([1.0])})
    for leaf in (np.array([object()]), np.ma.array([1.0, 2.0], mask=[0, 1]), ...):
        with pytest.raises(em.EstimandError, match="cannot be saved"):
            em.save(tmp_path / "x.npz", leaf)
    assert os.listdir(tmp_path) == []


def test_a_failed_save_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    em.save(tmp_path / "x.npz", jnp.ones(2))

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space left"):
        em.save(tmp_path / "x.npz", jnp.zeros(2))
    assert os.listdir(tmp_path) == ["x.npz"]
    assert same(em.load(tmp_path / "x.npz", like=jnp.zeros(2)), jnp.ones(2))


def test_another_programs_file_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    np.save(tmp_path / "array.npy", np.zeros(2))
    (tmp_path / "text").write_text("not an array")
    (tmp_path / "empty").write_bytes(b"")
    whole = (tmp_path / "other.npz").read_bytes()
    (tmp_path / "truncated").write_bytes(whole[: len(whole) // 2])
    for name in os.listdir(tmp_path):
        with pytest.raises(em.EstimandError, match="was not written by em.save"):
            em.load(tmp_path / name, like=jnp.zeros(2))
    with pytest.raises(FileNotFoundError):
        em.load(tmp_path / "nowhere", like=jnp.zeros(2))
