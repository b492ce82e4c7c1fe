"""Small models in plain torch, made to be compared: all return their last hidden state (n, points, width) and logits.

    VisionTransformer       patches and a class token through pre-norm blocks; the head reads the class token
    ConvolutionalNetwork    the same patches through residual blocks of two 3×3 convolutions; the head reads the mean over places
    CausalTransformer       characters or tokens through pre-norm blocks with causal attention; the head predicts the next one

The convolutional network keeps one resolution and one width, and its blocks hand on ``(n, places, channels)``: every place of the
feature map is a point, as every patch of the vision transformer is one, and it is the same place in each layer.

What a block hands on decides what the raw cosine can be. After the ReLU that ends a block of He et al. 2016a no coordinate is
negative, so no two points are more than a right angle apart, whatever was learned. With ``rectified=False`` the blocks are those
of He et al. 2016b, whose sums are not rectified: what mixes places is still a convolution, and that reason for a high cosine is gone.
The last state is the last sum, before the normalization and the ReLU that the head reads it through. A transformer's last state is
the output of its final normalization, as in Hugging Face's models.

Sources: Dosovitskiy et al. 2021, "An image is worth 16x16 words"; He, Zhang, Ren, Sun 2016a, "Deep residual learning for image
recognition", and 2016b, "Identity mappings in deep residual networks"; Radford et al. 2019, "Language models are unsupervised
multitask learners" (pre-norm, initialization with std 0.02, that of the projections onto the residual stream over sqrt(2 blocks)).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["CausalTransformer", "ConvolutionalNetwork", "Encoded", "VisionTransformer"]

STD = 0.02


class Encoded(NamedTuple):
    """What a model returns; a `simplicial_reg.training.Tap` knows the first name."""

    last_hidden_state: Tensor
    logits: Tensor


class Attention(nn.Module):
    """Attention of a few heads; ``is_causal`` and ``num_heads`` say to others how it is to be read."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.num_heads, self.is_causal = heads, causal
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, state: Tensor) -> Tensor:
        """``(n, points, width)``, as it came."""
        query, key, value = (
            project(state).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=self.is_causal)
        mixed: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """Attention and perceptron, each after a normalization and with a residual connection."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal=causal)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, state: Tensor) -> Tensor:
        """``(n, points, width)``, as it came."""
        state = state + self.attention(self.before_attention(state))
        perceived: Tensor = self.perceptron(self.before_perceptron(state))
        return state + perceived


class Transformer(nn.Module):
    """Blocks and a final normalization, initialized as GPT-2 is."""

    def __init__(self, width: int, blocks: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, causal=causal) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, state: Tensor) -> Tensor:
        """The last hidden state."""
        for block in self.blocks:
            state = block(state)
        normalized: Tensor = self.norm(state)
        return normalized

    def initialize(self, module: nn.Module) -> None:
        """Draw the weights of the whole model, of which this is a part."""
        for part in module.modules():
            if isinstance(part, (nn.Linear, nn.Embedding)):
                nn.init.normal_(part.weight, std=STD)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)
        for block in self.blocks:
            for onto in (block.attention.out, block.perceptron[2]):
                nn.init.normal_(onto.weight, std=STD / math.sqrt(2 * len(self.blocks)))


class VisionTransformer(nn.Module):
    """A vision transformer.

    Args:
        labels: number of classes.
        size: height and width of the images, a multiple of patch.
        channels: of the images.
        patch: height and width of a patch.
        width: of the hidden states.
        blocks: how many.
        heads: of each attention.
    """

    def __init__(
        self,
        labels: int = 10,
        *,
        size: int = 28,
        channels: int = 1,
        patch: int = 4,
        width: int = 64,
        blocks: int = 4,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.empty(1, 1 + (size // patch) ** 2, width))
        self.encoder = Transformer(width, blocks, heads, causal=False)
        self.head = nn.Linear(width, labels)
        self.encoder.initialize(self)
        nn.init.normal_(self.first, std=STD)
        nn.init.normal_(self.places, std=STD)

    def forward(self, images: Tensor) -> Encoded:
        """Of images ``(n, channels, height, width)`` the points, the class token first, and logits ``(n, labels)``."""
        patches = self.patches(images).flatten(2).mT
        points = torch.cat([self.first.expand(len(patches), -1, -1), patches], 1) + self.places
        points = self.encoder(points)
        return Encoded(points, self.head(points[:, 0]))


class ResidualBlock(nn.Module):
    """Two convolutions with a residual connection, on points ``(n, places, width)`` of a square map."""

    def __init__(self, width: int, *, rectified: bool) -> None:
        super().__init__()
        self.rectified = rectified
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.first_norm, self.second_norm = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, points: Tensor) -> Tensor:
        """``(n, places, width)``, as it came."""
        side = math.isqrt(points.shape[1])
        state = points.mT.unflatten(2, (side, side))
        relu = nn.functional.relu
        if self.rectified:
            change = self.second_norm(self.second(relu(self.first_norm(self.first(state)))))
            state = relu(state + change)
        else:
            state = state + self.second(relu(self.second_norm(self.first(relu(self.first_norm(state))))))
        return state.flatten(2).mT


class ConvolutionalNetwork(nn.Module):
    """A residual network of one resolution and one width; no attention.

    Args:
        labels: number of classes.
        size: height and width of the images, a multiple of patch.
        channels: of the images.
        patch: height and width of what a place of the feature map begins as.
        width: number of channels of the feature map.
        blocks: how many.
        rectified: whether a ReLU ends each block, so that no coordinate of a point is negative.
    """

    def __init__(
        self,
        labels: int = 10,
        *,
        size: int = 28,
        channels: int = 1,
        patch: int = 4,
        width: int = 64,
        blocks: int = 6,
        rectified: bool = True,
    ) -> None:
        super().__init__()
        if size % patch:
            raise ValueError(f"size must be a multiple of patch, {patch}; got {size}")
        self.patches = nn.Conv2d(channels, width, patch, stride=patch, bias=False)
        self.patches_norm = nn.BatchNorm2d(width)
        self.rectified = rectified
        self.blocks = nn.ModuleList(ResidualBlock(width, rectified=rectified) for _ in range(blocks))
        self.norm = nn.Identity() if rectified else nn.Sequential(nn.BatchNorm1d(width), nn.ReLU())
        self.head = nn.Linear(width, labels)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Encoded:
        """Of images ``(n, channels, height, width)`` a point for each place, and logits ``(n, labels)``."""
        state = self.patches_norm(self.patches(images))
        points = (nn.functional.relu(state) if self.rectified else state).flatten(2).mT
        for block in self.blocks:
            points = block(points)
        return Encoded(points, self.head(self.norm(points.mT).mean(2)))


class CausalTransformer(nn.Module):
    """A language model of the GPT kind, with learned places and the embeddings' weights in the head.

    Args:
        vocabulary: how many characters or tokens there are.
        context: how many of them it reads at most.
        width: of the hidden states.
        blocks: how many.
        heads: of each attention.
    """

    def __init__(
        self, vocabulary: int, *, context: int = 128, width: int = 128, blocks: int = 4, heads: int = 4
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(context, width)
        self.decoder = Transformer(width, blocks, heads, causal=True)
        self.decoder.initialize(self)

    def forward(self, input_ids: Tensor) -> Encoded:
        """Of ``(n, length)`` a point for each token, and logits ``(n, length, vocabulary)`` of the next."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        points = self.decoder(self.tokens(input_ids) + self.places(places))
        return Encoded(points, points @ self.tokens.weight.T)
