"""What a Dockerfile says."""

import shlex
from pathlib import Path


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Return each instruction with its arguments, on one line, in order."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def bases(dockerfile: Path) -> list[str]:
    """Return the images that it starts from, in order, without its own stages."""
    found, stages = [], set()
    for instruction, arguments in instructions(dockerfile):
        if instruction == "FROM":
            image, *rest = arguments.split()
            if image not in stages:
                found.append(image)
            stages |= set(rest[1:])
    return found


def final_stage(dockerfile: Path) -> list[tuple[str, str]]:
    """Return what its last stage does."""
    found = instructions(dockerfile)
    begin = max(index for index, (instruction, _) in enumerate(found) if instruction == "FROM")
    return found[begin:]


def labels(dockerfile: Path) -> dict[str, str]:
    """Return the labels of its last stage."""
    given = [arguments for instruction, arguments in final_stage(dockerfile) if instruction == "LABEL"]
    return dict(pair.split("=", 1) for arguments in given for pair in shlex.split(arguments))
