"""`Weights`: what the layers of a model take their tensors from while they are built.

A model asks for each tensor by name and shape. So one description of an architecture loads it,
checks a file's headers against it before anything is read, and says which modules can be quantized.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from hala_engine.errors import InputError
from hala_engine.weights.matrix import Matrix, Part, join, placed
from hala_engine.weights.quantization import Schemes
from hala_engine.weights.source import Placement, Source


@dataclass(frozen=True)
class Weights:
    """Tensors under `prefix`, as `place` wants them. Raises InputError, naming the module, where
    tensor parallelism cannot cut a tensor."""

    source: Source
    place: Placement
    schemes: Schemes = field(default_factory=dict)
    prefix: str = ""

    def at(self, name: str | int) -> Weights:
        """The weights of a module inside this one."""
        return Weights(self.source, self.place, self.schemes, f"{self.prefix}{name}.")

    def tensor(self, name: str, *shape: int) -> nn.Parameter:
        """A whole tensor in the model's dtype."""
        return frozen(placed(self.source.read(self.prefix + name, shape, 0, None), self.place))

    def scales(self, name: str, count: int) -> torch.Tensor:
        """This rank's `count` float32 scales, from a tensor of one for all or one for each; ones
        where the checkpoint has none."""
        place = self.place
        found = self.source.find_scales(self.prefix + name, count * place.ranks)
        if found is None:
            return torch.ones(count, device=place.device)
        scale = found.float().reshape(-1)
        if len(scale) > count:
            scale = scale[place.rank * count : (place.rank + 1) * count]
        # Not a view of the file, which may go away.
        return torch.ones(count, device=place.device).copy_(scale)

    def matrix(
        self, in_features: int, parts: dict[str, int], bias: bool, split: str | None
    ) -> Matrix:
        """The matrices `parts`, name -> height, on top of each other, and their biases.

        Matrices that are not all quantized alike are de-quantized, and so is their input left.
        split: "out" gives this rank its share of each part's rows, "in" of the columns.
        """
        return join(
            [self.at(name)._part(height, in_features, split) for name, height in parts.items()],
            bias=bias,
        )

    def _part(self, height: int, width: int, split: str | None) -> Part:
        name = self.prefix.removesuffix(".")
        rows = self._share(height, name) if split == "out" else slice(0, height)
        columns = self._share(width, name) if split == "in" else slice(0, width)
        scheme = self.schemes.get(name)
        return Part(self.source, self.place, name, scheme, (height, width), rows, columns)

    def _share(self, size: int, module: str) -> slice:
        place = self.place
        if size % place.ranks:
            raise InputError(
                f"--tensor-parallel {place.ranks} does not divide the {size} rows or columns of "
                f"{module}"
            )
        share = size // place.ranks
        return slice(place.rank * share, (place.rank + 1) * share)


def frozen(tensor: torch.Tensor) -> nn.Parameter:
    """A parameter that takes no gradient."""
    return nn.Parameter(tensor, requires_grad=False)
