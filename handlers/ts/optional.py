"""Packages that some handlers need and the server does not bring, imported when first used."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, distribution: str, purpose: str) -> ModuleType:
    """Import ``module``, or say what to install.

    Args:
        module: dotted name of what to import.
        distribution: what pip calls the package that has it.
        purpose: what needs it, the beginning of the error's sentence.

    Raises:
        ImportError: the package is not in the model's environment. What the package itself fails
            to import is reported as it is.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module + ".").startswith(error.name + "."):
            raise
        raise ImportError(
            f"{purpose} needs the package {distribution} in the model's environment "
            f"(pip install {distribution})",
            name=module,
        ) from error
