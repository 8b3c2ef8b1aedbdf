import socket

from tpnet.kernel.tcp import tcp_info


def test_what_the_other_end_has_confirmed():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as near,
    ):
        far, _ = server.accept()
        with far:
            near.sendall(b"x")
            info = tcp_info(near)
            assert info.unacked == 0
            assert info.silent < 60


def test_a_connection_that_is_being_made_has_not_been_confirmed():
    # A full queue leaves SYNs unanswered.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        socks = [socket.socket() for _ in range(8)]
        try:
            for sock in socks:
                sock.setblocking(False)
                sock.connect_ex(server.getsockname())
            assert any(tcp_info(sock).unacked == 1 for sock in socks)
        finally:
            for sock in socks:
                sock.close()
