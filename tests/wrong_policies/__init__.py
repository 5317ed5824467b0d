"""Policies with one fault each, and the right ones that they were made from. The conformance kit must tell them apart."""

from wrong_policies import answers, arithmetic, around, live, live_parts, parts, rows
from wrong_policies.parts import WRONG

__all__ = ["RIGHT", "WRONG", "answers", "arithmetic", "around", "live", "rows"]

RIGHT = (*live_parts.RIGHT[:2], *parts.RIGHT, *live_parts.RIGHT[2:])  # `make test` tries the first few
