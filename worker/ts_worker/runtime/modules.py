"""Makes room for modules that a model brings under a name that is taken. Called by `loop`.

Models with such names get a fresh interpreter (`backend.spawning`), but until the model's folder
is on the path even that one has imported a few things: this package, and yaml.
"""

from __future__ import annotations

import os
import sys
from typing import Iterable, Iterator

_KEPT = ("ts", "__main__")  # handlers import `ts`, and mean the server's
_PYTHONS = os.path.dirname(os.path.abspath(os.__file__)) + os.sep


def make_room(folders: Iterable[str]) -> None:
    """Forget modules whose names ``folders`` have as well, so that an import finds the model's.

    Who has imported them before goes on with what he has. Python's own stay: half of the standard
    library would stop to work with somebody else's ``signal``.
    """
    wanted = {name for folder in folders for name in _names(folder)}
    for name in list(sys.modules):
        top = name.partition(".")[0]
        if top in wanted and top not in _KEPT and not _is_pythons(top):
            del sys.modules[name]


def _names(folder: str) -> Iterator[str]:
    try:
        entries = os.listdir(folder)
    except OSError:
        return
    for entry in entries:
        if entry.endswith((".py", ".so")):
            yield entry.partition(".")[0]
        elif os.path.isfile(os.path.join(folder, entry, "__init__.py")):
            yield entry


def _is_pythons(name: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None)
    # Site-packages lie in the same folder.
    return file is None or (file.startswith(_PYTHONS) and "-packages" not in file)
