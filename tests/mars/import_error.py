"""Needs a package that nobody has."""

import a_package_that_does_not_exist


def handle(data, context):
    return a_package_that_does_not_exist.run(data)
