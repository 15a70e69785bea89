"""The README's program prints what the README says."""

import pathlib
import re
import subprocess
import sys

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", README, re.DOTALL).group(1)


def test_the_program_prints_what_is_shown(tmp_path):
    script = tmp_path / "cone.py"
    script.write_text(block("python"))
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout == block("text")


def test_it_is_about_as_long_as_promised():
    assert len(README.splitlines()) <= 130
