"""The version handlers see as `ts.__version__` and in `system_properties["server_version"]`."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("torchserve-py")
except PackageNotFoundError:
    # A model's own interpreter reaches this package by path, without its metadata.
    __version__ = "0.0.0"
