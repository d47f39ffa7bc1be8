"""What the start-up hook costs a Python process that never imports LLaMA-Factory, in milliseconds.

Makes two empty environments in a temporary folder, one of them with the hook, and starts their interpreters in turn:
without the hook, with it, and with it but `OGPSA_DISABLE=1`. Prints medians, and their differences to the first.

    python benchmarks/startup_cost.py [--runs 200]
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import ogpsa_factory


def make_environment(folder: Path, hook: bool) -> Path:
    """Make an empty environment, with the start-up file of this one if asked, and return its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    if hook:
        pth = next(path for entry in sys.path if (path := Path(entry, "ogpsa_factory.pth")).is_file())
        site_packages = next((folder / "lib").glob("python*/site-packages"))
        shutil.copy(pth, site_packages)
        shutil.copytree(Path(ogpsa_factory.__file__).parent, site_packages / "ogpsa_factory")
        # As `pip install` does it.
        subprocess.run([python, "-S", "-m", "compileall", "-q", site_packages], check=True)
    return python


def start_up_time(python: Path, environment: dict[str, str]) -> float:
    """Start an interpreter that does nothing, and return the milliseconds until it has ended."""
    start = time.perf_counter()
    subprocess.run([python, "-c", "pass"], check=True, env=environment)
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="starts per configuration")
    runs = parser.parse_args().runs

    enabled = {name: value for name, value in os.environ.items() if name != "OGPSA_DISABLE"}
    with tempfile.TemporaryDirectory() as folder:
        plain = make_environment(Path(folder, "plain"), hook=False)
        hooked = make_environment(Path(folder, "hooked"), hook=True)
        configurations = {
            "without the hook": (plain, enabled),
            "with the hook": (hooked, enabled),
            "with OGPSA_DISABLE=1": (hooked, {**enabled, "OGPSA_DISABLE": "1"}),
        }
        # Taken in turn, so that a busy machine slows all of them alike.
        times: dict[str, list[float]] = {name: [] for name in configurations}
        for _ in range(runs):
            for name, (python, environment) in configurations.items():
                times[name].append(start_up_time(python, environment))

    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:<22} {median:7.2f} ms  {median - medians['without the hook']:+6.2f} ms")


if __name__ == "__main__":
    main()
