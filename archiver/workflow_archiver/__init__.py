"""torch-workflow-archiver's import name and Python API: a thin face on `ts_archiver.workflows`."""

from importlib.resources import files

__version__ = files(__name__).joinpath("version.txt").read_text(encoding="utf-8").strip()
