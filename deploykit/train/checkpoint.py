"""A trained model on disk, in Hugging Face's layout: whole or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deploykit.artifact import check_target
from deploykit.errors import OutputError

LOG: Final = "training.json"
"""Says that a folder is a checkpoint of ours, so that `--overwrite` may replace it."""
