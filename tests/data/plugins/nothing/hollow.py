"""Entry points that lead to something that is no factory, and to nothing."""

FIXED = 0.5
