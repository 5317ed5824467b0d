"""``foreseer new``: a plugin project that installs, passes its tests and does something, to be changed into something better."""
