"""Every pair of options in one deployment or another; `benchmarks/sweep.py` takes every combination of all."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from combinations import VERSIONS, assert_sound, config_of, every_choice, pairs, pairwise
from deployments import OVERLAYS, build, write


def test_every_pair_of_options(tmp_path: Path) -> None:
    every = every_choice()
    chosen = list(pairwise(every))
    configs = [config_of(choice) for choice in chosen]
    # Each in another overlay, in turn: `test_overlays` has all of them.
    overlays = [
        write(tmp_path / str(index), config) / "overlays" / OVERLAYS[index % len(OVERLAYS)]
        for index, config in enumerate(configs)
    ]
    with ThreadPoolExecutor(2) as pool:
        built = list(pool.map(build, overlays))
    for objects, config in zip(built, configs, strict=True):
        assert_sound(objects, config, [VERSIONS[0], VERSIONS[-1]])
    assert set().union(*map(pairs, chosen)) == set().union(*map(pairs, every))
    assert len(OVERLAYS) <= len(chosen) <= 20
