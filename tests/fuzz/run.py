"""Runs the fuzz targets under atheris, one after another: python -m tests.fuzz.run SECONDS [TARGET]... [--together]

Each starts from its corpus and keeps what it finds in a temporary folder. Prints how often each ran; ends with 1 where one failed, and leaves the
bytes that made it fail in tests/fuzz/failed/. With --together one process runs all of them in turn, for a quick look.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CORPUS, FAILED = HERE / "corpus", HERE / "failed"
# Nothing here should need more, however odd its bytes are.
OPTIONS = ("-timeout=10", "-rss_limit_mb=1024", "-max_len=8192", "-print_final_stats=1", f"-artifact_prefix={FAILED}/")


def fuzz(name: str, options: list[str]) -> None:
    """Run one target, or all chosen by the first byte, until atheris ends the process."""
    import atheris

    with atheris.instrument_imports(include=["tinyp2p"]):
        from .targets import TARGETS
    logging.disable(logging.CRITICAL)
    every = list(TARGETS.values())

    def together(data: bytes) -> None:
        if data:
            every[data[0] % len(every)](data[1:])

    atheris.Setup([sys.argv[0], *options], together if name == "together" else TARGETS[name])
    atheris.Fuzz()


def started(name: str, seconds: float) -> tuple[int, str]:
    """One target in a process of its own: how often it ran, and its complaint if it failed."""
    FAILED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as found:
        seeds = _mixed(Path(found)) if name == "together" else CORPUS / name
        command = [sys.executable, "-m", "tests.fuzz.run", "--only", name, *OPTIONS, f"-max_total_time={round(seconds)}", found, str(seeds)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=HERE.parent.parent)
    count = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    return int(count[1]) if count else 0, "" if done.returncode == 0 and count else done.stdout[-4000:] + done.stderr[-1500:]


def _mixed(folder: Path) -> Path:
    """The seeds of all targets, each after the byte that chooses its target."""
    mixed = folder / "mixed"
    mixed.mkdir()
    for number, name in enumerate(names()):
        for seed in (CORPUS / name).iterdir():
            (mixed / f"{name}-{seed.name}").write_bytes(bytes([number]) + seed.read_bytes())
    return mixed


def names() -> list[str]:
    from .targets import TARGETS

    return list(TARGETS)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--only"]:
        fuzz(arguments[1], arguments[2:])
        return 0
    seconds, chosen = float(arguments[0]), arguments[1:]
    total, failed = 0, []
    for name in ["together"] if chosen == ["--together"] else chosen or names():
        count, complaint = started(name, seconds)
        total += count
        print(f"{name:16} {count:>12,} executions{'' if not complaint else '  FAILED'}", flush=True)
        if complaint:
            failed.append(name)
            print(complaint, flush=True)
    print(f"{'all':16} {total:>12,} executions; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
