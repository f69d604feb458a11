import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # the tensors of the tests are tiny: threads cost more than they bring
    torch.set_num_threads(1)
