import pytest


@pytest.fixture(scope="session", autouse=True)
def always(own_module_cache: None) -> None:
    """Models of our own kind are loaded all over."""
