"""Which cases of a test run by default."""

import pytest


def by_default(cases, *chosen):
    """Cases for `parametrize`, a dictionary or a list: those not chosen are for `-m full`."""
    named = cases.items() if isinstance(cases, dict) else [(case, case) for case in cases]
    names = [name for name, _ in named]
    assert set(chosen) <= set(names), f"{chosen} of {names}"
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if name in chosen else pytest.mark.full,
            id="-".join(map(str, name)) if isinstance(name, tuple) else str(name),
        )
        for name, case in named
    ]
