"""What holds for every test: strict dtype promotion, and keys that can be repeated."""

import os
import zlib

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def key(request):
    """A key of the test's own; a failing test shows its seed, and ESTIMAND_SEED sets another."""
    seed = int(os.environ.get("ESTIMAND_SEED", zlib.crc32(request.node.name.encode()) % 10_000))
    print(f"key = jax.random.key({seed})")
    return jax.random.key(seed)


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """Compiled programs of thousands of tests would otherwise fill the memory."""
    yield
    jax.clear_caches()
