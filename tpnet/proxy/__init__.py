"""The worker: an unprivileged process that accepts redirected connections, decides per request and relays bytes."""
