"""Label files of SemanticKITTI and lidarseg: read, or refused where they do not fit the scan."""

from __future__ import annotations

import numpy as np
import pytest
from pcd_files import write

from mdkt_ros.errors import LabelError
from mdkt_ros.scan import read_labels

LABELS = np.array([40, 10 | 7 << 16, 252, 0], dtype="<u4")


def test_labels_of_semantickitti(tmp_path):
    labels = read_labels(write(tmp_path / "a.label", LABELS.tobytes()), 4, np.uint32)
    assert labels.dtype == np.uint32
    assert labels.tolist() == LABELS.tolist()
    labels[0] = 1


def test_labels_of_lidarseg(tmp_path):
    labels = read_labels(write(tmp_path / "a_lidarseg.bin", bytes([24, 30, 0])), 3, np.uint8)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [24, 30, 0]
    assert read_labels(write(tmp_path / "b", b""), 0, np.uint32).shape == (0,)


@pytest.mark.parametrize(
    ("size", "points", "error"),
    [
        (15, 4, "15 bytes are not a whole number of uint32 labels; 4 points need 16 bytes; truncated?"),
        (12, 4, "3 uint32 labels, but the scan has 4 points"),
        (20, 4, "5 uint32 labels, but the scan has 4 points"),
        (0, 4, "0 uint32 labels, but the scan has 4 points"),
    ],
)
def test_labels_that_do_not_fit_the_scan(tmp_path, size, points, error):
    path = write(tmp_path / "a.label", bytes(size))
    with pytest.raises(LabelError) as raised:
        read_labels(path, points, np.uint32)
    assert str(raised.value) == f"{path}: {error}"


def test_labels_that_are_no_file(tmp_path):
    with pytest.raises(LabelError, match=r"a\.label: No such file"):
        read_labels(tmp_path / "a.label", 1, np.uint32)
    with pytest.raises(LabelError, match="not a file"):
        read_labels(tmp_path, 1, np.uint32)
