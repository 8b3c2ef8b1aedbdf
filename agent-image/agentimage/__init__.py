"""Builds the agents' image: no base image, container tool or root, and every package is held by its hash.

``python -m agentimage`` is its command line. It needs Debian 12: its apt and dpkg-deb, its Python 3.11 and pip. What
is in the image, and why, stands in ``debian.py``, ``wireguard.py`` and ``python.py``, a layer each.
"""

from agentimage.build import build_image
from agentimage.oci import Image, write_archive
from agentimage.tools import BuildError
from agentimage.tree import Tree

__all__ = ["BuildError", "Image", "Tree", "build_image", "write_archive"]
