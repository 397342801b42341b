"""The version of nasir, from the installed metadata."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("nasir")
except PackageNotFoundError:  # a source tree that is not installed
    VERSION = "0+unknown"
