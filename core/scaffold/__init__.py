"""``foreseer new``: a plugin project that installs, passes its tests and does something, to be changed."""

from foreseer.scaffold.names import KINDS, Names, names_for
from foreseer.scaffold.project import write_project

__all__ = ["KINDS", "Names", "names_for", "write_project"]
