"""HTTP/1 without I/O: heads, bodies, and the conversation on one client connection."""
