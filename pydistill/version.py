"""The version of the package: here, so that any module can import it."""

VERSION = "0.1.0"
