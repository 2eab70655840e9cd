"""The version of the distribution, and the one the REST API and metrics report."""

__version__ = "0.1.0"
