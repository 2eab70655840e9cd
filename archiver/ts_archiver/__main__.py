"""`python -m ts_archiver` is the `archiver` command."""

from ts_archiver.cli import archiver

if __name__ == "__main__":
    archiver()
