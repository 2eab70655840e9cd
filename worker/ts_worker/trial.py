"""What `torchserve-py run-handler` asks of the process that runs the handler, as one argument.

`ts_frontend.run_handler` writes it, `runtime.run_handler` reads it. Standard library only and
Python 3.9 syntax, like `messages`.
"""

from __future__ import annotations

import json
from typing import NamedTuple, Optional, Tuple

from ts_worker.messages import Load


class Input(NamedTuple):
    """A file that is the body of a request."""

    path: str  # absolute: the handler's process is in the model's folder
    content_type: Optional[str]  # None: by the file's ending


class Trial(NamedTuple):
    """A model and the requests to run on it.

    Without ``inputs`` the model's own samples are run.
    """

    load: Load
    inputs: Tuple[Input, ...] = ()
    batch: Optional[int] = None  # requests in a call; None: all, but no more than its batch size
    explain: bool = False
    repeat: int = 1
    profile: bool = False
    output: Optional[str] = None  # folder for the bodies of answers


def dumps(trial: Trial) -> str:
    """The trial as text."""
    return json.dumps(trial._replace(load=trial.load._asdict())._asdict())  # type: ignore[arg-type]


def loads(text: str) -> Trial:
    """Undo `dumps`."""
    fields = json.loads(text)
    load = Load(**fields.pop("load"))
    inputs = tuple(Input(*each) for each in fields.pop("inputs"))
    return Trial(load._replace(import_paths=tuple(load.import_paths)), inputs, **fields)
