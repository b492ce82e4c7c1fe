"""Training with a regularizer: what reads the points out of a model, and what goes around the loss.

>>> import torch
>>> from simplicial_reg.training import Tap
>>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
>>> with Tap(model, layer="1") as tap:
...     output = model(torch.ones(5, 3))
...     points = tap.read().points
>>> points.shape
torch.Size([5, 8])
"""

from simplicial_reg.training.tap import Cloud, Tap, read_hidden_states

__all__ = ["Cloud", "Tap", "read_hidden_states"]
