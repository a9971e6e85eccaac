"""Our network's forward pass on the convolutions of other libraries, with its weights: the same work by their means."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mdkt_ros.network import PointNetwork
from mdkt_ros.sparse import SparseTensor, StridedConv3d, SubmanifoldConv3d, TransposedConv3d


class PeerNetwork(nn.Module):
    """Walks through the parts of a network; what a library calls its tensor and convolutions is a subclass's.

    Args:
        network: with its normalisation or, fused, without. shape: voxels along each axis.
    """

    def __init__(self, network: PointNetwork, shape: tuple[int, int, int]):
        super().__init__()
        self.network = network
        self.shape = [-(-size // 16) * 16 for size in shape]
        self.convolutions = nn.ModuleDict()
        self.stride = 1

    def start(self, batch: SparseTensor) -> Any:
        """The library's tensor."""
        raise NotImplementedError

    def features(self, x: Any) -> torch.Tensor:
        raise NotImplementedError

    def replace(self, x: Any, features: torch.Tensor) -> Any:
        """The same voxels with other features."""
        raise NotImplementedError

    def twin(self, module: Any) -> nn.Module:
        """The library's convolution with a module's weights, on level `self.stride`."""
        raise NotImplementedError

    def forward(self, batch: SparseTensor) -> torch.Tensor:
        """(V, classes) logits."""
        net = self.network
        self.stride = 1
        skips = [self._run(net.stem, self.start(batch))]
        for stage in (net.stage1, net.stage2, net.stage3, net.stage4):
            skips.append(self._run(stage, skips[-1]))
        out = skips.pop()
        for up, blocks in (net.up1, net.up2, net.up3, net.up4):
            out = self._run(up.net, out)
            joined = torch.cat([self.features(out), self.features(skips.pop())], dim=1)
            out = self._run(blocks, self.replace(out, joined))
        linear: Any = net.classifier[0]
        return nn.functional.linear(self.features(out), linear.weight.to(self.features(out).dtype), linear.bias)

    def _run(self, module: Any, x: Any) -> Any:
        if isinstance(module, SubmanifoldConv3d) and module.kernel_size == 1:
            features = self.features(x) @ module.kernel
            return self.replace(x, features if module.bias is None else features + module.bias)
        if isinstance(module, (SubmanifoldConv3d, StridedConv3d, TransposedConv3d)):
            x = self._convolution(module)(x)
            return self.replace(x, self.features(x).relu()) if module.relu else x
        if hasattr(module, "normalize"):
            return self.replace(x, module.normalize(self.features(x)))
        if isinstance(module, nn.Identity):
            return x
        if hasattr(module, "downsample"):
            shortcut = self._run(module.downsample, x)
            out = self._run(module.net, x)
            return self.replace(out, (self.features(out) + self.features(shortcut)).relu())
        if hasattr(module, "inplace"):
            return self.replace(x, self.features(x).relu())
        for part in module.net if hasattr(module, "net") else module:
            x = self._run(part, x)
        return x

    def _convolution(self, module: Any) -> nn.Module:
        """Made at its first call, when its level is known."""
        key = str(id(module))
        if isinstance(module, TransposedConv3d):
            self.stride //= 2
        if key not in self.convolutions:
            self.convolutions[key] = self.twin(module).to(module.kernel.device)
        if isinstance(module, StridedConv3d):
            self.stride *= 2
        return self.convolutions[key]


class SpconvNetwork(PeerNetwork):
    """spconv 2. `native`: its algorithm for CPUs; else the one that it takes for itself."""

    def __init__(self, network: PointNetwork, shape: tuple[int, int, int], native: bool = False):
        super().__init__(network, shape)
        self.native = native

    def start(self, batch: SparseTensor) -> Any:
        import spconv.pytorch as spconv

        return spconv.SparseConvTensor(batch.features, batch.coordinates, self.shape, 1)

    def features(self, x: Any) -> torch.Tensor:
        return x.features  # type: ignore[no-any-return]

    def replace(self, x: Any, features: torch.Tensor) -> Any:
        return x.replace_feature(features)

    def twin(self, module: Any) -> nn.Module:
        import spconv.pytorch as spconv
        from spconv.core import ConvAlgo

        options = {"bias": module.bias is not None, "algo": ConvAlgo.Native if self.native else None}
        cin, cout, stride = module.in_channels, module.out_channels, self.stride
        weight = module.kernel.detach()
        if isinstance(module, SubmanifoldConv3d):
            made = spconv.SubMConv3d(cin, cout, 3, indice_key=f"sub{stride}", **options)
            weight = weight.view(3, 3, 3, cin, cout).permute(4, 2, 1, 0, 3)  # ours counts x fastest
        else:
            weight = weight.view(2, 2, 2, cin, cout).permute(4, 0, 1, 2, 3)
            if isinstance(module, StridedConv3d):
                made = spconv.SparseConv3d(cin, cout, 2, 2, indice_key=f"down{stride}", **options)
            else:
                made = spconv.SparseInverseConv3d(cin, cout, 2, indice_key=f"down{stride}", **options)
        made.weight = nn.Parameter(weight.contiguous())
        if module.bias is not None:
            made.bias = nn.Parameter(module.bias.detach().clone().to(weight.dtype))
        return made  # type: ignore[no-any-return]


class TorchsparseNetwork(PeerNetwork):
    """torchsparse 2.1 by its own modules, in its default dataflow (implicit GEMM)."""

    def start(self, batch: SparseTensor) -> Any:
        import torchsparse

        return torchsparse.SparseTensor(batch.features, batch.coordinates, 1, (1, *self.shape))

    def features(self, x: Any) -> torch.Tensor:
        return x.feats  # type: ignore[no-any-return]

    def replace(self, x: Any, features: torch.Tensor) -> Any:
        import torchsparse

        made = torchsparse.SparseTensor(features, x.coords, x.stride, x.spatial_range)
        made._caches = x._caches
        return made

    def twin(self, module: Any) -> nn.Module:
        import torchsparse.nn as spnn

        strided = not isinstance(module, SubmanifoldConv3d)
        made = spnn.Conv3d(
            module.in_channels,
            module.out_channels,
            2 if strided else 3,
            2 if strided else 1,
            bias=module.bias is not None,
            transposed=isinstance(module, TransposedConv3d),
        )
        made.kernel = nn.Parameter(module.kernel.detach().clone())
        if module.bias is not None:
            made.bias = nn.Parameter(module.bias.detach().clone().to(module.kernel.dtype))
        return made.train(self.training)  # type: ignore[no-any-return]
