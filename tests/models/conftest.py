from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_module_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """transformers copies remote code to a cache; the tests' one is not the user's."""
    hub = pytest.importorskip("transformers.dynamic_module_utils")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield
