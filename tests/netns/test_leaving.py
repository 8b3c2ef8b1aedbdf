"""An intercept that is left, and made again: for those who use it, and for those who only pass through."""

import time

from laptops import answer, request
from worker_lab import answering


def test_an_intercept_that_is_made_again_is_seen_by_the_next_request_of_every_connection(scene):
    scene.app(answering("app"))
    scene.bob.serve(answering("bob"))
    scene.intercept()
    kept = [scene.keep(scene.connect(family=family)) for family in (4, 6, 4, 6)]

    def asked(sock, data):
        sock.sendall(data)
        return answer(sock)

    for _ in range(3):
        for sock in kept:
            assert asked(sock, scene.matched()) == (200, "bob 0")
            assert asked(sock, request()) == (200, "app 0")
        kept.append(scene.keep(scene.connect()))  # it has asked nothing yet when the intercept is left
        scene.bob.remove()
        for sock in kept[:-1]:
            assert asked(sock, scene.matched()) == (200, "app 0")
        scene.bob.join()  # the session ended with its last intercept
        began = time.monotonic()
        scene.intercept()
        for sock in kept:
            assert asked(sock, scene.matched()) == (200, "bob 0"), time.monotonic() - began
            assert asked(sock, request()) == (200, "app 0")
