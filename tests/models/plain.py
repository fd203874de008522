"""Models of the gallery in plain PyTorch: kinds of networks that transformers and diffusers do not have."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Dlrm(nn.Module):
    """A recommender: dense features and categories, pairwise products, a ranking head."""

    def __init__(self, dense: int = 13, categories: int = 6, rows: int = 100, width: int = 16) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(dense, 32), nn.ReLU(), nn.Linear(32, width), nn.ReLU())
        self.tables = nn.ModuleList(nn.EmbeddingBag(rows, width, mode="sum") for _ in range(categories))
        pairs = (categories + 1) * categories // 2
        self.top = nn.Sequential(nn.Linear(width + pairs, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, dense: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        x = self.bottom(dense)
        found = [x, *(table(ids[:, index]) for index, table in enumerate(self.tables))]
        every = torch.stack(found, 1)
        products = every @ every.transpose(1, 2)
        row, column = torch.tril_indices(len(found), len(found), offset=-1)
        return torch.sigmoid(self.top(torch.cat([x, products[:, row, column]], 1)))


class TwoTower(nn.Module):
    """Retrieval: a user's last items through a GRU, and an item, to a cosine."""

    def __init__(self, items: int = 100, width: int = 16) -> None:
        super().__init__()
        self.table = nn.Embedding(items, width, padding_idx=0)
        self.history = nn.GRU(width, width, batch_first=True)
        self.item = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, history: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        _, state = self.history(self.table(history))
        return F.cosine_similarity(state[-1], self.item(self.table(item)), dim=-1)


class Gcn(nn.Module):
    """Graph convolutions over edges as pairs of nodes: messages gathered, and added up where they go."""

    def __init__(self, features: int = 8, width: int = 16, classes: int = 3) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features, width), nn.Linear(width, classes)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        source, target = edges.reshape(x.shape[0], 2, -1, 1).unbind(1)
        ones = torch.ones_like(source, dtype=x.dtype)
        degree = torch.zeros_like(x[..., :1]).scatter_add(1, target, ones).clamp(min=1).rsqrt()
        weight = degree.gather(1, source) * degree.gather(1, target)
        for layer, last in ((self.first, False), (self.second, True)):
            y = layer(x)
            messages = y.gather(1, source.expand(-1, -1, y.shape[-1])) * weight
            y = y + torch.zeros_like(y).scatter_add(1, target.expand_as(messages), messages)
            x = y.log_softmax(-1) if last else torch.relu(y)
        return x


class Gat(nn.Module):
    """Graph attention over a dense adjacency matrix."""

    def __init__(self, features: int = 8, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.project = nn.Linear(features, width * heads, bias=False)
        self.left, self.right = (
            nn.Parameter(torch.randn(heads, width)),
            nn.Parameter(torch.randn(heads, width)),
        )

    def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        y = self.project(x).unflatten(-1, self.left.shape).transpose(1, 2)
        score = (y * self.left[:, None]).sum(-1, keepdim=True) + (y * self.right[:, None]).sum(-1).unsqueeze(
            -2
        )
        score = F.leaky_relu(score, 0.2).masked_fill(adjacency.unsqueeze(1) == 0, float("-inf"))
        return F.elu((score.softmax(-1) @ y).transpose(1, 2).flatten(-2))


class NBeats(nn.Module):
    """Time series: blocks that take their backcast away and add their forecast."""

    def __init__(self, past: int = 24, future: int = 6, blocks: int = 3) -> None:
        super().__init__()
        self.future = future
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(past, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, past + future)
            )
            for _ in range(blocks)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.abs().mean(-1, keepdim=True) + 1e-6
        x, forecast = x / scale, x.new_zeros(x.shape[0], self.future)
        for block in self.blocks:
            back, ahead = block(x).split([x.shape[1], self.future], -1)
            x, forecast = x - back, forecast + ahead
        return forecast * scale


class SpeechCrnn(nn.Module):
    """Speech: convolutions over a spectrogram, a bidirectional LSTM, log probabilities for CTC."""

    def __init__(self, bands: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=(2, 1), padding=1), nn.BatchNorm2d(8), nn.Hardtanh(0, 20),
            nn.Conv2d(8, 8, 3, stride=(2, 1), padding=1), nn.BatchNorm2d(8), nn.Hardtanh(0, 20),
        )  # fmt: skip
        self.recurrent = nn.LSTM(8 * bands // 4, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, classes)

    def forward(self, spectrogram: torch.Tensor) -> torch.Tensor:
        y = self.convolutions(spectrogram.unsqueeze(1)).flatten(1, 2).transpose(1, 2)
        return self.head(self.recurrent(y)[0]).log_softmax(-1)


class SelectiveScan(nn.Module):
    """State space: a diagonal recurrence whose steps depend on the input, one step of a loop at a time."""

    def __init__(self, width: int = 8, state: int = 4) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.rand(width, state))
        self.step, self.into, self.out = (
            nn.Linear(width, width),
            nn.Linear(width, state),
            nn.Linear(width, state),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        step = F.softplus(self.step(x)).unsqueeze(-1)
        decay, given = torch.exp(-step * self.rate), step * self.into(x).unsqueeze(-2) * x.unsqueeze(-1)
        reads, state, results = self.out(x).unsqueeze(-2), torch.zeros_like(given[:, 0]), []
        for at in range(x.shape[1]):
            state = decay[:, at] * state + given[:, at]
            results.append((state * reads[:, at]).sum(-1))
        return torch.stack(results, 1)


class AnchorDetector(nn.Module):
    """Detection: boxes from anchors, and the suppression of overlapping ones for a fixed number of the best."""

    def __init__(self, classes: int = 3, best: int = 8) -> None:
        super().__init__()
        self.best = best
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 16, 3, stride=2, padding=1),
            nn.SiLU(),
        )
        self.scores, self.boxes = nn.Conv2d(16, classes, 1), nn.Conv2d(16, 4, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y = self.body(image)
        height, width = y.shape[-2:]
        centres = torch.stack(
            torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing="xy"), -1
        ).reshape(-1, 2)
        sizes = self.boxes(y).flatten(2).transpose(1, 2)
        corners = torch.cat([centres - sizes[..., :2].exp(), centres + sizes[..., 2:].exp()], -1)
        score, label = self.scores(y).sigmoid().flatten(2).max(1)
        score, order = score.topk(self.best, dim=1)
        corners = corners.gather(1, order.unsqueeze(-1).expand(-1, -1, 4))
        area = (corners[..., 2:] - corners[..., :2]).prod(-1)
        low = torch.maximum(corners[:, :, None, :2], corners[:, None, :, :2])
        high = torch.minimum(corners[:, :, None, 2:], corners[:, None, :, 2:])
        shared = (high - low).clamp(min=0).prod(-1)
        overlap = shared / (area[:, :, None] + area[:, None] - shared)
        kept = torch.ones_like(score, dtype=torch.bool)
        for at in range(1, self.best):
            beaten = (overlap[:, at, :at] > 0.5) & kept[:, :at]
            kept = torch.cat([kept[:, :at], ~beaten.any(1, keepdim=True), kept[:, at + 1 :]], 1)
        return corners, score * kept, label.gather(1, order)
