"""torch-model-archiver's import name and Python API, as tools such as OpenMMLab's use them.

A thin face on `ts_archiver`, which does the work: new code calls `ts_archiver.pack`.
"""

from importlib.resources import files

from model_archiver.model_archiver import ModelArchiver
from model_archiver.model_archiver_config import ModelArchiverConfig

__version__ = files(__name__).joinpath("version.txt").read_text(encoding="utf-8").strip()

__all__ = ["ModelArchiver", "ModelArchiverConfig", "__version__"]
