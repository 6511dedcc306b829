"""Read the IDX files in which MNIST and Fashion-MNIST come."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from surefoot_lab.config import UserError

UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> Tensor:
    """Read one IDX file of bytes, gzipped or not.

    The format: two zero bytes, the type, the number of dimensions, the dimensions as big-endian
    32-bit numbers, the values.

    Args:
        path: the file.

    Returns:
        A uint8 tensor of the file's shape.

    Raises:
        UserError: the file is not a whole IDX file of bytes.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch the file again") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE:
        raise UserError(f"{path}: not an IDX file of bytes; fetch the file again")
    dimensions = content[3]
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise UserError(f"{path}: the file is cut off; fetch it again")
    shape = [int(size) for size in np.frombuffer(content[4:header], dtype=">u4")]
    if len(content) - header != math.prod(shape):
        raise UserError(f"{path}: the file is cut off or damaged; fetch it again")
    values = np.frombuffer(content, dtype=np.uint8, offset=header).copy()
    return torch.from_numpy(values).view(shape)
