"""Two small networks that tell the next character at every place of a sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CharLSTM(nn.Module):
    """Stacked LSTM layers on embedded characters. Its state begins at zero in every sequence.

    Args:
        num_classes: number of different characters.
        hidden: width of the embedding and of each layer.
        layers: number of LSTM layers.
        dropout: share of what goes in and out of the layers that is left out while training.
    """

    def __init__(
        self, num_classes: int, hidden: int = 128, layers: int = 2, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, hidden)
        between = dropout if layers > 1 else 0.0
        self.recurrent = nn.LSTM(hidden, hidden, layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, characters: Tensor) -> Tensor:
        """Scores, (count, length, classes), of int64 characters, (count, length)."""
        outputs, _ = self.recurrent(self.dropout(self.embedding(characters)))
        scores: Tensor = self.head(self.dropout(outputs))
        return scores


class CharTransformer(nn.Module):
    """A transformer that sees what came before: learned positions, normalization first.

    Args:
        num_classes: number of different characters.
        sequence_length: the longest sequence it is given.
        width: of the embedding.
        heads: of each layer's attention; divides the width.
        layers: number of layers.
        dropout: share that is left out while training.
    """

    def __init__(
        self,
        num_classes: int,
        sequence_length: int = 50,
        width: int = 128,
        heads: int = 4,
        layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, width)
        self.places = nn.Parameter(0.02 * torch.randn(sequence_length, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        # nested tensors are for padded sequences, and need normalization last
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        for module in self.layers.layers[1:]:  # PyTorch copies the first layer, weights and all
            for parameter in module.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def forward(self, characters: Tensor) -> Tensor:
        """Scores, (count, length, classes), of int64 characters, (count, length)."""
        length = characters.shape[1]
        hidden = self.embedding(characters) + self.places[:length]
        ahead = torch.ones(length, length, dtype=torch.bool, device=characters.device).triu(1)
        scores: Tensor = self.head(self.norm(self.layers(hidden, mask=ahead)))
        return scores
