"""Models from the Hugging Face hub."""

from __future__ import annotations

from typing import Any, Union

from ts.optional import require


def download_model(
    model_id: str,
    revision: str = "main",
    model_path: str = ".cache",
    use_auth_token: Union[bool, str] = True,
) -> Any:
    """Download a model, or find it in the cache.

    Args:
        model_path: folder of the cache.
        use_auth_token: a token, True for the one of `huggingface-cli login` or HF_TOKEN where there
            is one, False for none.

    Returns:
        The folder with the model's files.

    Raises:
        ImportError: huggingface_hub is not installed.
    """
    hub = require("huggingface_hub", "huggingface_hub", "Downloading a model")
    # For the hub True means that there must be a token, also for a model that needs none.
    token = None if use_auth_token is True else use_auth_token
    return hub.snapshot_download(
        repo_id=model_id, revision=revision, cache_dir=model_path, token=token
    )
