"""How an open file of `deploykit serve` reaches a backend, past Triton: inherited, and named in the environment."""

import os
from collections.abc import Mapping
from typing import Final

FILE_VARIABLE: Final = "DEPLOYKIT_REQUEST_LOG"
"""Environment variable that names the file for lines about requests: `NUMBER:DEVICE:INODE`."""
_STANDARD_ERROR: Final = 2


def handed_down(file: int) -> str:
    """Return what names an open file to a process that inherits it."""
    found = os.fstat(file)
    return f"{file}:{found.st_dev}:{found.st_ino}"


def inherited_file(environment: Mapping[str, str]) -> int:
    """Return the number of the file that was handed down, or of standard error."""
    number, *identity = environment.get(FILE_VARIABLE, "").split(":")
    try:
        found = os.fstat(int(number))
    except (ValueError, OverflowError, OSError):
        return _STANDARD_ERROR
    # Whatever stands between the two might have closed it, and opened something else under its number.
    return int(number) if identity == [str(found.st_dev), str(found.st_ino)] else _STANDARD_ERROR
