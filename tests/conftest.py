import os
import uuid
from functools import partial

import pytest
import torch

from selmix.baselines.retrain import RetrainSettings


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # the tensors of the tests are tiny: threads cost more than they bring
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_cache_of_the_user(tmp_path_factory):
    os.environ["SELMIX_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """A cache for commands of any test that may find features there, so that what ships is extracted once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared_cache"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SELMIX_CACHE", str(tmp_path_factory.getbasetemp() / "caches" / uuid.uuid4().hex))


@pytest.fixture
def _quick_retraining(monkeypatch):
    """Let the heads that stage two starts from and is compared with take a tenth of their steps."""
    for module in ("beginning", "stage2.starts", "baselines.problem"):
        monkeypatch.setattr(f"selmix.{module}.RetrainSettings", partial(RetrainSettings, steps=500))
