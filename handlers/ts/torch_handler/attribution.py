"""captum's attribution methods as attributes of a handler, imported when first used.

captum takes a second to import and most models are never asked for an explanation.
"""

from __future__ import annotations

from typing import Any

from ts.utils.util import PredictionException


class Attribution:
    """A class attribute that builds ``captum.attr.<method>(handler.model, ...)`` once.

    Args:
        method: IntegratedGradients, LayerIntegratedGradients, ...
        layer: name of the model's layer to attribute to, for methods that take one.

    Handlers may assign another object to the attribute.
    """

    def __init__(self, method: str, layer: str = "") -> None:
        self._method = method
        self._layer = layer
        self._slot = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._slot = name

    # No __set__: what is stored in the instance's dict under this name is found first.
    def __get__(self, handler: Any, owner: Any = None) -> Any:
        if handler is None:
            return self
        try:
            from captum import attr
        except ImportError as error:
            raise PredictionException(
                "Explanations need the package captum in the model's environment "
                "(pip install captum)",
                501,
            ) from error
        layers = [getattr(handler.model, self._layer)] if self._layer else []
        value = getattr(attr, self._method)(handler.model, *layers)
        handler.__dict__[self._slot] = value
        return value
