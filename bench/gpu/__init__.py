"""Timing policies on models in their published shapes, with random weights: ``foreseer bench gpu``.

Policies on models (`suite`), other caches beside them (`beside`), other ways to run a model (`ways`), the
weighted sum alone (`kernel`) and the suite's tests (`checks`); in order of worth within a number of seconds
(`whole`).

Where a policy decides by what it sees, the decisions are forced to the published rates, so that time does not
depend on weights. Quality is not measured here and nothing is claimed of it: that is what `foreseer bench
run` is for.
"""
