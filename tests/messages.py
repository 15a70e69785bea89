"""The whole text of every kind of error, in `messages.txt`, a catalogue to read.

Delete it and run `ESTIMAND_WRITE_MESSAGES=1 pytest tests` to write it anew; what then changed is
to be read. Line numbers and addresses in memory are left out.
"""

import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import estimand as em

FILE = Path(__file__).with_name("messages.txt")
WRITING = "ESTIMAND_WRITE_MESSAGES" in os.environ
HEAD = re.compile(r"^== (.*)$", re.MULTILINE)


def catalogue():
    """From the name of a mistake to what is said of it."""
    if not FILE.exists():
        return {}
    _, *parts = HEAD.split(FILE.read_text())
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def check_message(name, mistake, *args, **kwargs):
    """`mistake(...)` raises an error whose whole text is the one in the catalogue."""
    with pytest.raises(em.EstimandError) as refusal:
        mistake(*args, **kwargs)
    text = re.sub(r"\.py:\d+", ".py:LINE", str(refusal.value))
    text = re.sub(r"0x[0-9a-f]+", "0x...", text)
    known = catalogue()
    if WRITING:
        known[name] = text
        FILE.write_text("\n\n".join(f"== {key}\n{known[key]}" for key in sorted(known)) + "\n")
    assert text == known.get(name)


class Programs(dict):
    """Programs by name, entered by decoration."""

    def __call__(self, program):
        self[program.__name__] = program
        return program

    def each(self):
        """Parametrizes a test over name and program."""
        return pytest.mark.parametrize("name, program", self.items(), ids=self.keys())


THETA = jnp.array([0.3, 0.6])


def trace(objective, theta=THETA):
    """Build value and gradient of an objective, without running them."""
    return jax.eval_shape(em.expectation(objective).value_and_grad, jax.random.key(0), theta)
