"""Shape annotations of ntkit are checked at run time in every test, under beartype."""

from jaxtyping import config, install_import_hook

install_import_hook("ntkit", "beartype.beartype")

import os  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

# with several test processes, threads that wait busily would cost the others
torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))


@pytest.fixture
def unchecked():
    """Turns the run-time shape checks off, so a test sees the error a user sees."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _same_seed():
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no CUDA device")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)
