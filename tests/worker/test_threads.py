"""Threads of torch and of BLAS, in a process of its own: both belong to a whole process."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import numpy, threadpoolctl, torch
from ts_worker.runtime.threads import ThreadCount, known_libraries

def blas():
    found = threadpoolctl.threadpool_info()
    return {one["num_threads"] for one in found if one["user_api"] == "blas"}

if %r:
    known_libraries()  # as the zygote does
threads = ThreadCount()
for count in (2, 1, 2):
    threads.apply(count)
    print(torch.get_num_threads(), *blas())
"""


@pytest.mark.parametrize("in_zygote", [True, False])
def test_torch_and_blas_compute_with_as_many_threads_as_asked_for(in_zygote: bool) -> None:
    pytest.importorskip("threadpoolctl")
    words = [sys.executable, "-c", CODE % in_zygote]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert said.split("\n") == ["2 2", "1 1", "2 2", ""]
