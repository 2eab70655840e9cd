"""All peers by name, in the order of tables."""

from __future__ import annotations

from benchmarks.peers.aiohttp_bare import AiohttpBare
from benchmarks.peers.bentoml import BentoML
from benchmarks.peers.litserve import LitServe
from benchmarks.peers.mlserver import MLServer
from benchmarks.peers.mosec import Mosec
from benchmarks.peers.peer import Peer
from benchmarks.peers.rayserve import RayServe
from benchmarks.peers.torchserve import TorchServe
from benchmarks.peers.torchserve_py import TorchServePy

FIRST_RING = ("torchserve-py", "torchserve", "mosec", "litserve")
SECOND_RING = ("bentoml", "rayserve", "mlserver")  # for the echo and the ResNet rows
LIMITS = ("aiohttp (bare)",)
NAMES = (*FIRST_RING, *SECOND_RING, *LIMITS)


def peers() -> dict[str, Peer]:
    """A fresh one of each."""
    every: tuple[Peer, ...] = (
        TorchServePy(),
        TorchServe(),
        Mosec(),
        LitServe(),
        BentoML(),
        RayServe(),
        MLServer(),
        AiohttpBare(),
    )
    return {one.name: one for one in every}
