"""The script TorchServe's frontend ran once a minute: ``metric_collector.py --gpu N``."""

from __future__ import annotations

import argparse
import logging
import sys

from ts.metrics import process_memory_metric, system_metrics


def main() -> None:
    """Print the machine's metrics, then the memory of the processes named on stdin."""
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    parser = argparse.ArgumentParser(description="Collect the metrics of this machine")
    parser.add_argument("--gpu", type=int, default=0, help="number of GPUs to look at")
    arguments = parser.parse_args()
    system_metrics.collect_all(system_metrics, arguments.gpu)
    process_memory_metric.check_process_mem_usage(sys.stdin)


if __name__ == "__main__":
    main()
