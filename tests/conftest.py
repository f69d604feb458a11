from functools import partial

import pytest
import torch

from selmix.baselines.retrain import RetrainSettings


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # the tensors of the tests are tiny: threads cost more than they bring
    torch.set_num_threads(1)


@pytest.fixture
def _quick_retraining(monkeypatch):
    """Let the heads that stage two starts from and is compared with take a tenth of their steps."""
    for module in ("pipeline", "stage2.starts", "baselines.problem"):
        monkeypatch.setattr(f"selmix.{module}.RetrainSettings", partial(RetrainSettings, steps=500))
