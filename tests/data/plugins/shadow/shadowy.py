"""A package that brings a policy under the name of a built-in one."""


def taylorseer():
    """Not the one you think."""
    raise AssertionError("nobody asked for this one")
