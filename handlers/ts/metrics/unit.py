"""Units in the short form that handlers write and the long form that metric lines carry."""

from __future__ import annotations

from typing import Dict, Optional

LONG_FORMS: Dict[Optional[str], str] = {
    "ms": "Milliseconds",
    "s": "Seconds",
    "percent": "Percent",
    "count": "Count",
    "MB": "Megabytes",
    "GB": "Gigabytes",
    "kB": "Kilobytes",
    "B": "Bytes",
    "": "unit",
    None: "unit",
}


class Units:
    """TorchServe's face on the table above."""

    def __init__(self) -> None:
        self.units = dict(LONG_FORMS)
