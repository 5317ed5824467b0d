"""Comparing policies: the harness behind `foreseer compare`."""
