"""The shop: Debian's nginx, unmodified and unaware of us, configured in the lab's folder.

``tpnet_cli.lab.build`` calls it. It answers with its own name, the request and the address it sees as
its client's.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tpnet.model import NotThere
from tpnet_cli.lab.network import has_ipv6
from tpnet_cli.lab.plan import SHOP_PORT

if TYPE_CHECKING:
    from pathlib import Path

_CONFIG = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    log_format lab '$remote_addr "$request" $status';
    access_log {folder}/access.log lab;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type text/plain;
    keepalive_requests 100000;
    server {{
        listen {port};
        {listen6}
        location / {{
            return 200 "{name}: $request_method $request_uri, client $remote_addr\\n";
        }}
    }}
}}
"""


def find_nginx() -> str:
    """The path of nginx. Raises ``NotThere`` with the way to get it."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise NotThere("The lab's shop is nginx, which is not installed.", "apt-get install nginx-light")
    return found


def prepare_shop(folder: Path, name: str) -> list[str]:
    """Write the configuration of one replica; gives the command that runs it in the foreground."""
    folder.mkdir(parents=True, exist_ok=True)
    listen6 = f"listen [::]:{SHOP_PORT};" if has_ipv6() else ""
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(folder=folder, name=name, port=SHOP_PORT, listen6=listen6))
    return [find_nginx(), "-c", str(config), "-p", str(folder), "-e", str(folder / "error.log")]
