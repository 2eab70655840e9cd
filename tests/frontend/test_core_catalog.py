"""Models, versions and defaults."""

from __future__ import annotations

import pytest

from tests.core_rig import a_version
from ts_frontend.core.catalog import Catalog
from ts_frontend.errors import Conflict, InvalidVersion, ModelNotFound, VersionNotFound


@pytest.fixture
async def catalog() -> Catalog:
    catalog = Catalog()
    for name, version in (("b", "1"), ("b", "2"), ("a", "1.0")):
        catalog.add(a_version(name, version))
    return catalog


async def test_the_first_version_is_the_default_and_versions_are_exact(catalog: Catalog) -> None:
    assert catalog.find("b").version == "1"
    assert catalog.find("b", "2").version == "2"
    assert [model.name for model in catalog.defaults()] == ["a", "b"]
    assert [model.version for model in catalog.versions("b")] == ["1", "2"]
    assert len(list(catalog)) == 3
    with pytest.raises(VersionNotFound, match=r"^Model version: 1\.0 does not exist for model: b$"):
        catalog.find("b", "1.0")
    for look in (catalog.find, catalog.versions):
        with pytest.raises(ModelNotFound, match=r"^Model not found: c$"):
            look("c")


async def test_the_same_version_again_is_a_conflict(catalog: Catalog) -> None:
    with pytest.raises(Conflict, match=r"^Model version 2 is already registered for model b$"):
        catalog.add(a_version("b", "2"))


async def test_set_default_has_a_punctuation_of_its_own(catalog: Catalog) -> None:
    catalog.set_default("b", "2")
    assert catalog.find("b").version == "2"
    with pytest.raises(VersionNotFound, match=r"^Model version 3 does not exist for model b$"):
        catalog.set_default("b", "3")
    with pytest.raises(ModelNotFound, match=r"^Model not found: c$"):
        catalog.set_default("c", "1")


async def test_a_default_goes_last(catalog: Catalog) -> None:
    first, second = catalog.versions("b")
    with pytest.raises(InvalidVersion, match=r"^Cannot remove default version for model b$"):
        catalog.remove(first)
    catalog.remove(second)
    assert not catalog.holds(second)
    assert catalog.holds(first)
    catalog.remove(first)
    with pytest.raises(ModelNotFound):
        catalog.find("b")
    again = a_version("b", "1")
    catalog.add(again)
    assert catalog.holds(again)
    assert not catalog.holds(first)


async def test_the_one_startup_model(catalog: Catalog) -> None:
    assert catalog.startup_model() is None
    catalog.add(a_version("s", "1"), at_startup=True)
    second = a_version("s", "2")
    catalog.add(second, at_startup=True)
    assert catalog.startup_model() == "s"
    assert catalog.loaded_at_startup("s")
    other = a_version("t", "1")
    catalog.add(other, at_startup=True)
    assert catalog.startup_model() is None
    catalog.remove(other)
    assert catalog.startup_model() == "s"
    # As in TorchServe: removing any version makes the model forget where it came from.
    catalog.remove(second)
    assert not catalog.loaded_at_startup("s")
