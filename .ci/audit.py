"""Ask for known vulnerabilities of all that is installed: `make audit`.

Exits with 1 if there are any. Where the service does not answer, or knows none of the packages, as a mirror does, that
is said in one line and is no fault.
"""

import json
import subprocess
import sys

_SECONDS = 180
_OPTIONS = ["--format", "json", "--progress-spinner", "off", "--timeout", "5", "--skip-editable"]


def verdict(answer: str) -> tuple[int, list[str]]:
    """Return the exit code, and the lines to print.

    Args:
        answer: what pip-audit printed as JSON; something else if it failed.
    """
    try:
        packages = json.loads(answer)["dependencies"]
    except (ValueError, KeyError):
        return 0, ["audit: nothing was audited, the service does not answer here"]
    known = [package for package in packages if "vulns" in package]
    if not known:
        return 0, [f"audit: nothing was audited, the service knows none of the {len(packages)} packages"]
    found = [
        f"{package['name']} {package['version']}: {own['id']}, mended in {', '.join(own['fix_versions']) or 'none yet'}"
        for package in known
        for own in package["vulns"]
    ]
    return int(bool(found)), [*found, f"audit: {len(found)} known vulnerabilities in {len(known)} packages"]


def main() -> int:
    """Run pip-audit on the environment of this interpreter."""
    command = [sys.executable, "-m", "pip_audit", *_OPTIONS]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS).stdout
    except subprocess.TimeoutExpired:
        answer = ""
    code, lines = verdict(answer)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
