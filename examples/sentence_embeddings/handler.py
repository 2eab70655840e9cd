"""Embeddings by sentence-transformers, whose model is a folder rather than one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException


class SentenceEmbedder(BaseHandler):
    """Answers a JSON list of texts with a list of embeddings of length 1, 384 numbers each."""

    def initialize(self, context: Context) -> None:
        """Load the model from the archive; `BaseHandler` has no loader for a folder."""
        gpu = context.system_properties["gpu_id"]
        self.device = torch.device("cpu" if gpu is None else f"cuda:{gpu}")
        folder = Path(context.system_properties["model_dir"]) / "model"
        self.model = SentenceTransformer(str(folder), device=str(self.device))

    def preprocess(self, data: list[dict[str, Any]]) -> list[list[str]]:
        """The texts of each request.

        Raises:
            PredictionException: 400 for a request that is no list of texts; the others of the
                batch are answered all the same.
        """
        requests = []
        for index, row in enumerate(data):
            texts = row.get("body")
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise PredictionException("Send a JSON list of texts", 400, request_index=index)
            requests.append(texts)
        return requests

    def inference(self, data: list[list[str]], *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        """``[texts][384]`` for each request; all texts of the batch go in at once."""
        flat = [text for texts in data for text in texts]
        embeddings = self.model.encode(
            flat, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        )
        return list(embeddings.split([len(texts) for texts in data])) if flat else [embeddings]

    def postprocess(self, data: list[torch.Tensor]) -> list[list[list[float]]]:
        return [embeddings.tolist() for embeddings in data]
