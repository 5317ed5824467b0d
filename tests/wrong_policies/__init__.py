"""Policies with one fault each, and the right ones that they were made from. The conformance kit must tell them apart."""

from wrong_policies import answers, arithmetic, around, parts, rows
from wrong_policies.parts import WRONG
from wrong_policies.places import RIGHT_PLACES

__all__ = ["RIGHT", "WRONG", "answers", "arithmetic", "around", "rows"]

RIGHT = parts.RIGHT + RIGHT_PLACES
