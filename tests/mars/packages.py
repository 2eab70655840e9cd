"""Tells which `thing` it found, in which interpreter."""

import sys

import thing


def handle(data, context):
    if data is None:
        return None
    answer = {"thing": thing.VERSION, "prefix": sys.prefix, "python": sys.version.split()[0]}
    return [answer for _ in data]
