"""Every error that this package raises about its input, on one line that names the file, topic or field.

The command line prints these without a traceback and exits with 1; anything else that escapes is a bug.
"""

from __future__ import annotations


class MdktError(Exception):
    """Base of all errors about what the package was given to work on."""


class CloudError(MdktError):
    """A point cloud (PointCloud2, .bin, .pcd) that cannot be read."""


class LabelError(MdktError):
    """A label file or label space that cannot be read, or that does not fit its scan."""


class CameraError(MdktError):
    """A calibration or an image that cannot be used."""


class DriveError(MdktError):
    """A recorded drive (data set folder, bag) that is incomplete or not understood."""


class CheckpointError(MdktError):
    """A checkpoint that is truncated, of another format, or does not fit."""


class SparseError(MdktError):
    """Voxels that the sparse engine cannot work on: misshapen, repeated, or spread too far."""


class ConfigError(MdktError):
    """A configuration with an unknown key or a value out of range."""


class OutputError(MdktError):
    """A result that cannot be written where it was asked for."""
