"""Strategies, one a file, with the derivation beside the code."""

if not __name__.startswith("estimand."):
    raise ImportError(
        f"imported as {__name__!r}, this folder would be a second copy of estimand.estimators: "
        "import estimand, and use it from there"
    )
