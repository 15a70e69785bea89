"""What holds for every test: strict dtype promotion."""

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """Compiled programs of thousands of tests would otherwise fill the memory."""
    yield
    jax.clear_caches()
