"""A package that cannot be imported: what it needs was never installed."""

import a_module_that_was_never_installed  # noqa: F401
