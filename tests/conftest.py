"""What several test files need. The models themselves are in `tiny_models.py`."""

# isort: off
import hvp_utils  # before torch, which reads the settings of threads that it makes
import matplotlib
import pytest
import torch
# isort: on


@pytest.fixture(scope="session", autouse=True)
def _offline():
    """No test may wait for a network: the hub's client says at once that it cannot be reached."""
    with pytest.MonkeyPatch.context() as patch:
        # Both are read when the libraries are imported, so the environment comes too late.
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(autouse=True)
def _own_style():
    """A test that sets the book's style sets it for itself alone."""
    with matplotlib.rc_context():
        yield


@pytest.fixture
def random():
    """A seeded generator of float64 tensors: `random(3, n)`."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="session")
def real_model():
    """SmolLM2-135M in float32 on the CPU, on which the paper's claims are checked."""
    return hvp_utils.load_model("smollm2-135m", device="cpu")
