"""``python -m agentimage [build] [--out FILE] [--arch amd64] [--name NAME]``, ``… wireguard-go FILE``, ``… lock``."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from agentimage import wireguard
from agentimage.build import NAME, build_image, lock, machine, version
from agentimage.debian import ARCHITECTURES
from agentimage.tools import REPOSITORY, BuildError


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="agentimage", description="Build the agents' image.")
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="an OCI archive, and its bill of materials beside it")
    building.add_argument("--out", type=Path, help="default: dist/tpnet-agent-VERSION-ARCH.tar")
    building.add_argument("--arch", choices=ARCHITECTURES, default="", help="default: this machine's")
    building.add_argument("--name", default="", help="what the image is called in the archive")
    building.add_argument(
        "--drift", action="store_true", help="newer packages where the locked ones are gone"
    )
    tunnel = commands.add_parser("wireguard-go", help="that program alone, for this machine")
    tunnel.add_argument("out", type=Path)
    commands.add_parser("lock", help="write the locks of Debian's packages anew")
    asked = parser.parse_args()
    try:
        if asked.command == "lock":
            lock(say)
        elif asked.command == "wireguard-go":
            asked.out.unlink(missing_ok=True)  # it may be running
            shutil.copy2(wireguard.program(machine(), say), asked.out)
        else:
            architecture = asked.arch or machine()
            target = asked.out or REPOSITORY / "dist" / f"{NAME}-{version()}-{architecture}.tar"
            built = build_image(
                target, name=asked.name, architecture=architecture, drift=asked.drift, say=say
            )
            print(f"{built.archive}\n{built.bill}\n{built.digest}")  # noqa: T201
    except BuildError as error:
        say(str(error))
        return 1
    return 0


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
