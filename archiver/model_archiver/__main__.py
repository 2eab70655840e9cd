"""`python -m model_archiver` is the command `torch-model-archiver`."""

from ts_archiver.cli import torch_model_archiver

if __name__ == "__main__":
    torch_model_archiver()
