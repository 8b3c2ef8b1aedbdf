"""Control without a cluster: the objects of ``tpnet.model`` behind a Unix socket that is root's alone."""

from tpnet.control.local.client import LocalControl
from tpnet.control.local.protocol import default_run_dir

__all__ = ["LocalControl", "default_run_dir"]
