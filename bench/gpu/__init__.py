"""Timing policies on models in their published shapes, with random weights: ``foreseer bench gpu``.

Where a policy decides by what it sees, the decisions are forced to the published rates, so that time does not
depend on weights. Quality is not measured here and nothing is claimed of it: that is what `foreseer bench
run` is for.
"""
