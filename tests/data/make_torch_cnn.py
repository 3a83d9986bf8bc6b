"""Make `torch_cnn.safetensors`: a small PyTorch network trained on MNIST, eight digits and what it says of them.

Run by hand where PyTorch is installed: `python tests/data/make_torch_cnn.py`. The tests only read the file, so they
need no PyTorch. Tensors carry the names of the module's `state_dict()`, `inputs` is channels first as PyTorch wants
it, `outputs` are the logits in eval mode.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

import landscape as ls

OUT = Path(__file__).with_name("torch_cnn.safetensors")


class CNN(nn.Module):
    """Two convolutions with batch norm and a dense layer: 9,146 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.norm0 = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.dense = nn.Linear(16 * 7 * 7, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(n, 10)` of images `(n, 1, 28, 28)`."""
        x = torch.relu(self.norm0(self.conv0(x)))
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.dense(x.flatten(1))


def channels_first(x: np.ndarray) -> torch.Tensor:
    """Images `(n, 28, 28, 1)` as `(n, 1, 28, 28)`."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def main() -> None:
    """Train two passes over the digits and write the file."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train, test = ls.problems.mnist5k()
    x, y = channels_first(train["x"]), torch.from_numpy(train["y"]).long()
    model = CNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(2):
        for indices in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[indices]), y[indices]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = model(channels_first(test["x"])).argmax(1) == torch.from_numpy(test["y"])
        inputs = channels_first(test["x"][:8])
        outputs = model(inputs)
    save_file({**model.state_dict(), "inputs": inputs, "outputs": outputs}, OUT)
    print(f"{OUT.name}: {OUT.stat().st_size / 1e3:.0f} kB, test accuracy {right.float().mean():.1%}")


if __name__ == "__main__":
    main()
