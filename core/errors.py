"""Everything that foreseer raises on purpose. Each message says what to write instead."""

from __future__ import annotations

__all__ = ["AnswerError", "ContractError", "FileError", "ForeseerError", "MissingPackageError"]
__all__ += ["OptionError", "OverBudgetError", "PluginError", "PolicyConflictError", "UnsupportedModelError"]
__all__ += ["in_one_line", "in_words"]


def in_words(error: BaseException) -> str:
    """Name an error and say what it says, as far as it can: somebody's own may raise when it is asked."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def in_one_line(error: BaseException) -> str:
    """As `in_words`, in one line of at most 300 characters: what others raise may be pages long."""
    return " ".join(in_words(error).split())[:300]


class ForeseerError(Exception):
    """The common ancestor of what this package raises on purpose, and of nothing else."""


class PluginError(ForeseerError):
    """A plugin is unknown, cannot be imported, or breaks the rules of registration."""


class PolicyConflictError(PluginError):
    """Two plugins claim one name, or two parts of a policy provide the same decision."""


class ContractError(ForeseerError):
    """A plugin or a host returned what the contract forbids, or a run was driven as it cannot be."""


class AnswerError(ContractError):
    """A policy answered a hook with something that the contract forbids. ``on_error="compute"`` copes with
    it, as with what a policy raises.
    """


class FileError(ForeseerError, OSError):
    """A file or a folder cannot be written; the message says which, and why."""


class MissingPackageError(ForeseerError, ImportError):
    """A package that an extra brings is not installed; the message says which extra."""


class OptionError(ForeseerError, ValueError):
    """An option or an argument is unknown or out of range, or a file is not what it should be."""


class OverBudgetError(ForeseerError, MemoryError):
    """A policy would hold more than allowed. Raised on the first computed step, before it holds anything."""


class UnsupportedModelError(ForeseerError, TypeError):
    """The target offers nothing to attach to."""
