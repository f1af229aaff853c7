"""Scripts that show how the package is used from code that was not written for it."""
