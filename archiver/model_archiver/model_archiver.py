"""`ModelArchiver`, the class that TorchServe's documents show."""

from __future__ import annotations

from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_packaging import generate_model_archive


class ModelArchiver:
    """Packages models."""

    @staticmethod
    def generate_model_archive(config: ModelArchiverConfig) -> None:
        """See `model_archiver.model_packaging.generate_model_archive`."""
        generate_model_archive(config)
