"""`aiperf profile` against the gateway: what a well-known tool finds as its users grow."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from beside_grpc import artifact_of
from peers import REQUIREMENTS, environment
from served import Served, gateway_process, processor_seconds, served
from workloads import NEW, PROMPT

REQUESTS: Final = {1: 8, 2: 12, 4: 20, 8: 32, 16: 48, 32: 64}
"""Users → requests; each user asks again as soon as it has its answer."""
ENDPOINTS: Final = ("chat", "completions")
WARM: Final = 2
"""Requests before those that count."""
KEPT: Final = {
    "time_to_first_token": ("avg", "p50", "p99"),
    "inter_token_latency": ("avg", "p50", "p99"),
    "request_latency": ("avg", "p99"),
    "output_token_throughput": ("avg",),
    "request_throughput": ("avg",),
    "output_sequence_length": ("avg",),
    "input_sequence_length": ("avg",),
    "completed_request_count": ("avg",),
    "request_error_rate": ("avg",),
}
"""Which of its figures are kept; milliseconds, and each second."""
TOKENIZER: Final = "deploykit/bench"
"""aiperf takes tokenizers by name alone when it must not ask the Hub; so a cache of the Hub's holds ours."""
PAUSE: Final = 0.5
"""Seconds between two looks at aiperf's processor time."""


def measure(folder: Path, *, endpoints: tuple[str, ...] = ENDPOINTS) -> dict[str, Any]:
    """Return aiperf's figures by endpoint and users.

    Prompts have 64 tokens before the chat template, answers 64; tokens are counted by the gateway, as it reports them.
    """
    artifact, found = artifact_of(folder), dict[str, Any]()
    with TemporaryDirectory() as name, served(artifact.path) as at:
        _cache(artifact.path, Path(name))
        for endpoint in endpoints:
            for users, requests in REQUESTS.items():
                row = _profile(at, endpoint, users, requests, Path(name))
                found.setdefault(endpoint, {})[f"{users} users"] = row
                _show(endpoint, users, row)
    return {"aiperf": REQUIREMENTS["aiperf"][0].partition("==")[2], "endpoints": found}


def _cache(artifact: Path, home: Path) -> None:
    """Lay the artifact's tokenizer into a cache of the Hub's at `home`."""
    revision = "0" * 40
    folder = home / "hub" / f"models--{TOKENIZER.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    snapshot = folder / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(artifact / file, snapshot)


def _profile(at: Served, endpoint: str, users: int, requests: int, home: Path) -> dict[str, Any]:
    """Return the figures of one run."""
    out, gateway = home / f"{endpoint}-{users}", gateway_process(at.gateway)
    command = [*_command(at, endpoint, users, requests), "--output-artifact-dir", str(out)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    times = _Times(aiperf=process.pid, gateway=gateway)
    output, _ = process.communicate()
    times.stop()
    if process.returncode:
        sys.exit(f"aiperf failed:\n{output.decode(errors='replace')[-4000:]}")
    report = json.loads((out / "profile_export_aiperf.json").read_text())
    assert not report["error_summary"], report["error_summary"]
    figures = {name: {what: report[name][what] for what in kinds} for name, kinds in KEPT.items()}
    assert figures["completed_request_count"]["avg"] == requests, figures
    began, ended = (datetime.fromisoformat(report[f"{edge}_time"]).timestamp() for edge in ("start", "end"))
    return {**figures, "errors": 0, "cores": times.between(began, ended)}


def _command(at: Served, endpoint: str, users: int, requests: int) -> Iterator[str]:
    yield from (str(environment("aiperf") / "aiperf"), "profile", "--model", "model")
    yield from ("--url", f"http://127.0.0.1:{at.gateway}", "--endpoint-type", endpoint, "--streaming")
    yield from ("--tokenizer", TOKENIZER, "--use-server-token-count", "--random-seed", "0")
    yield from ("--synthetic-input-tokens-mean", str(PROMPT), "--synthetic-input-tokens-stddev", "0")
    yield from ("--output-tokens-mean", str(NEW), "--output-tokens-stddev", "0")
    yield from ("--extra-inputs", "ignore_eos:true", "--extra-inputs", "temperature:0")
    yield from ("--concurrency", str(users), "--request-count", str(requests), "--num-dataset-entries", str(requests))
    yield from ("--warmup-request-count", str(WARM), "--ui", "none", "--export-level", "summary")
    # It shares two cores with what it measures: no more processes than it needs.
    yield from ("--workers-max", "1", "--record-processors", "1", "--no-server-metrics", "--no-gpu-telemetry")


class _Times:
    """The processor time of aiperf's processes and of the gateway, looked at again and again until `stop`."""

    def __init__(self, *, aiperf: int, gateway: int) -> None:
        self._session, self._gateway = aiperf, gateway
        self._seen: list[tuple[float, float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def between(self, began: float, ended: float) -> dict[str, float]:
        """Return how many cores each has used between two times."""
        times, *used = (np.array(column) for column in zip(*self._seen, strict=True))
        spent = [np.interp(ended, times, row) - np.interp(began, times, row) for row in used]
        return {
            who: round(float(row) / (ended - began), 3) for who, row in zip(("aiperf", "gateway"), spent, strict=True)
        }

    def _watch(self) -> None:
        while not self._ended.wait(PAUSE):
            self._seen.append((time.time(), _session_seconds(self._session), processor_seconds(self._gateway)))


def _session_seconds(session: int) -> float:
    """Return the processor time of all processes of a session."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _show(endpoint: str, users: int, row: dict[str, Any]) -> None:
    first, inter = row["time_to_first_token"], row["inter_token_latency"]
    print(
        f"{endpoint:<12} {users:>2} users: first token {first['avg']:.1f} ms (p99 {first['p99']:.1f}), "
        f"between tokens {inter['avg']:.1f} ms, {row['output_token_throughput']['avg']:.1f} tokens/s, "
        f"{row['request_throughput']['avg']:.2f} requests/s, {row['errors']} errors; "
        f"aiperf {row['cores']['aiperf']:.2f} of a core, gateway {row['cores']['gateway']:.2f}",
        flush=True,
    )
