"""Objectives: bounds, divergences and wake-sleep as programs, for use in an expectation."""

if not __name__.startswith("estimand."):
    raise ImportError(
        f"imported as {__name__!r}, this folder would be a second copy of "
        "estimand.ppl.objectives: import estimand, and use it from there"
    )
