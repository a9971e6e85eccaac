"""Sparse convolutions on voxels, in plain PyTorch on CPU and CUDA, with the weights of torchsparse 2.1."""

from mdkt_ros.sparse import torch_backend as _torch_backend  # registers the back end "torch"
from mdkt_ros.sparse.backend import Backend, backends, register_backend, use_backend
from mdkt_ros.sparse.convolution import SparseConvolution, StridedConv3d, SubmanifoldConv3d, TransposedConv3d
from mdkt_ros.sparse.fusion import fuse
from mdkt_ros.sparse.interpolation import interpolate
from mdkt_ros.sparse.kernel_map import KernelMap
from mdkt_ros.sparse.maps import KernelMaps
from mdkt_ros.sparse.normalization import BatchNorm, ReLU
from mdkt_ros.sparse.operator import sparse_convolution
from mdkt_ros.sparse.parallel import block_threads
from mdkt_ros.sparse.tensor import SparseTensor, cat

del _torch_backend

__all__ = [
    "Backend",
    "BatchNorm",
    "KernelMap",
    "KernelMaps",
    "ReLU",
    "SparseConvolution",
    "SparseTensor",
    "StridedConv3d",
    "SubmanifoldConv3d",
    "TransposedConv3d",
    "backends",
    "block_threads",
    "cat",
    "fuse",
    "interpolate",
    "register_backend",
    "sparse_convolution",
    "use_backend",
]
