"""A package for a foreseer that does not exist yet; its metadata says so, and nobody has to import it to find out."""

raise RuntimeError("imported, though its contract rules it out")
