"""The public Python interface, exported by `cnnkit` itself: the same functions that the commands call. See docs/python.md."""
