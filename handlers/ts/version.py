"""The version handlers see as `ts.__version__` and in `system_properties["server_version"]`."""

import os
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("torchserve-py")
except PackageNotFoundError:
    # A model's own interpreter reaches this package by path, without its metadata.
    with open(os.path.join(os.path.dirname(__file__), "version.txt"), encoding="utf-8") as _file:
        __version__ = _file.read().strip()
