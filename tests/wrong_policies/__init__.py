"""Policies with one fault each, and the right ones that they were made from. The conformance kit must tell them apart."""

from wrong_policies import answers, arithmetic, around, rows
from wrong_policies.parts import RIGHT, WRONG

__all__ = ["RIGHT", "WRONG", "answers", "arithmetic", "around", "rows"]
