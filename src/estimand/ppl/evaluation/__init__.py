"""Evaluation: the evidence, posterior samples, predictions, and their export to ArviZ."""

if not __name__.startswith("estimand."):
    raise ImportError(
        f"imported as {__name__!r}, this folder would be a second copy of "
        "estimand.ppl.evaluation: import estimand, and use it from there"
    )
