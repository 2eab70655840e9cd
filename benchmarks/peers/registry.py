"""All peers by name, in the order of tables."""

from __future__ import annotations

from benchmarks.peers.aiohttp_bare import AiohttpBare
from benchmarks.peers.litserve import LitServe
from benchmarks.peers.mosec import Mosec
from benchmarks.peers.peer import Peer
from benchmarks.peers.torchserve import TorchServe
from benchmarks.peers.torchserve_py import TorchServePy

FIRST_RING = ("torchserve-py", "torchserve", "mosec", "litserve")
LIMITS = ("aiohttp (bare)",)
NAMES = (*FIRST_RING, *LIMITS)


def peers() -> dict[str, Peer]:
    """A fresh one of each."""
    return {
        one.name: one for one in (TorchServePy(), TorchServe(), Mosec(), LitServe(), AiohttpBare())
    }
