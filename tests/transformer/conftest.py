"""Small models, and the same weights in PyTorch's own modules."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> None:
    """Draw the same weights and inputs in every run."""
    torch.manual_seed(0)
