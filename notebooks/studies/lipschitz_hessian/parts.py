"""The smooth parts of a network, and how large their third derivatives are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

PARTS = {
    "GeLU": F.gelu,
    "GeLU, tanh form": lambda x: F.gelu(x, approximate="tanh"),
    "SiLU": F.silu,
    "logistic, a softmax over two": torch.sigmoid,
    "RMSNorm beside other entries of length 1": lambda x: x / (1 + x**2).sqrt(),
}


def smooth_parts(n_points: int = 160_001) -> pd.DataFrame:
    """Columns part, largest (magnitude of the third derivative) and at (the magnitude of x)."""
    x = torch.linspace(-8, 8, n_points, dtype=torch.float64, requires_grad=True)
    rows = []
    for part, function in PARTS.items():
        derivative = function(x)
        for _ in range(3):
            derivative = torch.autograd.grad(derivative.sum(), x, create_graph=True)[0]
        i = int(derivative.abs().argmax())
        rows.append((part, derivative[i].abs().item(), x[i].abs().item()))
    return pd.DataFrame(rows, columns=["part", "largest", "at"])


def gelu_closed_form() -> float:
    """Largest third derivative of GeLU, phi(x) x (4 - x^2) at x^2 = (7 - sqrt 33) / 2."""
    x = ((7 - 33**0.5) / 2) ** 0.5
    return float(np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * x * (4 - x**2))
