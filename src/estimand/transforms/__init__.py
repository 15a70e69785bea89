"""The compiler: sites, interpreters, dependence, frontier, plan, lift."""

if not __name__.startswith("estimand."):
    raise ImportError(
        f"imported as {__name__!r}, this folder would be a second copy of estimand.transforms: "
        "import estimand, and use it from there"
    )
