"""argparse's liberties for click: option prefixes, and several values after one option.

TorchServe's launcher is written with argparse, so `--model-s dir` and `--models a b` are in
people's scripts. Used by `cli`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum


class Takes(Enum):
    """How many values an option takes."""

    NOTHING = 0
    ONE = 1
    MANY = 2


class ArgvError(ValueError):
    """An option that can't be understood, in argparse's words."""


def normalise(argv: Sequence[str], options: Mapping[str, Takes]) -> list[str]:
    """Spell out every long option and repeat an option before each of its values.

    Args:
        argv: the words after the command's name.
        options: long options with their leading dashes.

    Raises:
        ArgvError: a prefix of several options, or an option of several values without any.
    """
    out: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*out, word, *rest]
        if not word.startswith("--"):
            out.append(word)
            continue
        name, given, value = word.partition("=")
        name = _spell_out(name, options)
        takes = options.get(name, Takes.NOTHING)
        if given:
            out.append(f"{name}={value}")
        elif takes is Takes.MANY:
            for each in _values(name, rest):
                out += [name, each]
        else:
            out.append(name)
            if takes is Takes.ONE and rest and not rest[0].startswith("-"):
                out.append(rest.pop(0))
    return out


def _spell_out(name: str, options: Iterable[str]) -> str:
    """The one option that starts so; an unknown one stays for click to refuse."""
    found = [option for option in options if option.startswith(name)]
    if name in found or not found:
        return name
    if len(found) > 1:
        raise ArgvError(f"ambiguous option: {name} could match {', '.join(sorted(found))}")
    return found[0]


def _values(name: str, rest: list[str]) -> list[str]:
    values: list[str] = []
    while rest and not rest[0].startswith("-"):
        values.append(rest.pop(0))
    if not values:
        raise ArgvError(f"argument {name}: expected at least one argument")
    return values
