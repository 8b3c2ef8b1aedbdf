"""The lab's container images, made on this machine without a registry and kept in the cache under the hash of what is in them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from kubelab.config import PAUSE, SHOP
from kubelab.tools import CACHE, REPOSITORY, LabError, digest, locked

sys.path.append(str(REPOSITORY / "agent-image"))
import agentimage
from agentimage.build import inputs, machine

if TYPE_CHECKING:
    from pathlib import Path


class Images:
    """Makes and finds images; each method returns the path of an OCI archive that :meth:`Cluster.load_image` takes."""

    def __init__(self, programs: Path, say=print) -> None:
        """``programs`` is the folder of the lab's programs; ``say`` is told what takes long."""
        self._programs = programs
        self._say = say

    def small(self) -> Path:
        """``localhost/pause:1`` and ``localhost/shop:1``, which hold the program ``pod`` and nothing else."""
        target = self._programs / f"images-{digest(REPOSITORY / 'agent-image' / 'agentimage')}.tar"
        with locked(CACHE / "images.lock"):
            if not target.exists():
                tree = agentimage.Tree()
                tree.file("pod", (self._programs / "pod").read_bytes(), 0o755)
                layer = target.with_suffix(".layer")
                tree.write(layer, 0)
                each = [
                    agentimage.Image(
                        name, machine(), [("tests/cluster", layer)], {"Entrypoint": ["/pod", call]}
                    )
                    for name, call in ((SHOP, "serve"), (PAUSE, "pause"))
                ]
                agentimage.write_archive(target, each)
                layer.unlink()
        return target

    def agent(self) -> Path:
        """The agents' image of this checkout, kept under the hash of its inputs. LabError if it cannot be built."""
        target = CACHE / f"agent-{inputs(machine())}.tar"
        with locked(CACHE / "images.lock"):
            if target.exists():
                os.utime(target)
                return target
            try:
                agentimage.build_image(target, drift=True, say=self._say)
            except agentimage.BuildError as error:
                raise LabError(str(error)) from error
            for old in sorted(CACHE.glob("agent-*.tar"), key=lambda path: path.stat().st_mtime)[:-2]:
                old.unlink(missing_ok=True)
        return target
