"""Training with a regularizer: the added line, and the parts it is made of.

>>> import torch
>>> from simplicial_reg.training import Regularization
>>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
>>> regularization = Regularization(model, "persistent-entropy", layer="1", weight=0.1)
>>> task_loss = model(torch.randn(16, 3)).square().mean()
>>> loss = regularization(task_loss)
>>> bool(loss > task_loss)
True

The frameworks have modules of their own, which import them: `simplicial_reg.training.hf`, `.sentence_transformers`, `.lightning`.
"""

from simplicial_reg.training.distributed import gather_points
from simplicial_reg.training.memory import GradientCache, PointMemory, cached_backward, subsample
from simplicial_reg.training.regularization import Regularization
from simplicial_reg.training.tap import Cloud, Tap, read_hidden_states
from simplicial_reg.training.weight import BalancedWeight, ScheduledWeight, Weight, make_weight, schedule

__all__ = [
    "Regularization",
    # reading hidden states
    "Cloud",
    "Tap",
    "read_hidden_states",
    # enough points
    "GradientCache",
    "PointMemory",
    "cached_backward",
    "subsample",
    # how much they count
    "BalancedWeight",
    "ScheduledWeight",
    "Weight",
    "make_weight",
    "schedule",
    # many devices
    "gather_points",
]
