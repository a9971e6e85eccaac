"""Sparse convolutions on voxels, on CPU and CUDA, by several engines with the weights of torchsparse 2.1."""

from mdkt_ros.sparse import loaders as _loaders  # registers the engines
from mdkt_ros.sparse.backend import Backend, check_engine, current_engine, engines, register_engine, use_engine
from mdkt_ros.sparse.convolution import SparseConvolution, StridedConv3d, SubmanifoldConv3d, TransposedConv3d
from mdkt_ros.sparse.fusion import fuse
from mdkt_ros.sparse.interpolation import interpolate
from mdkt_ros.sparse.kernel_map import KernelMap
from mdkt_ros.sparse.maps import KernelMaps
from mdkt_ros.sparse.normalization import BatchNorm, ReLU
from mdkt_ros.sparse.operator import sparse_convolution
from mdkt_ros.sparse.parallel import block_threads
from mdkt_ros.sparse.precision import PRECISIONS, Precision, in_precision, resolve_precision
from mdkt_ros.sparse.tensor import SparseTensor, cat

del _loaders

__all__ = [
    "PRECISIONS",
    "Backend",
    "BatchNorm",
    "KernelMap",
    "KernelMaps",
    "Precision",
    "ReLU",
    "SparseConvolution",
    "SparseTensor",
    "StridedConv3d",
    "SubmanifoldConv3d",
    "TransposedConv3d",
    "block_threads",
    "cat",
    "check_engine",
    "current_engine",
    "engines",
    "fuse",
    "in_precision",
    "interpolate",
    "register_engine",
    "resolve_precision",
    "sparse_convolution",
    "use_engine",
]
