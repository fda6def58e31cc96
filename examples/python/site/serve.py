"""Serves app.application with Python's own library alone.

It takes the socket that it finds open (LISTEN_FDS), or listens on the address that it
is given. It says READY=1 to NOTIFY_SOCKET, loads app.py again on SIGHUP, and ends on
SIGTERM when the request under way is answered.
"""

import importlib
import os
import selectors
import signal
import socket
import sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import app


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass


def notify(state):
    name = os.environ.get("NOTIFY_SOCKET")
    if name:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(state.encode(), "\0" + name[1:] if name[0] == "@" else name)


def main():
    host, port = sys.argv[1].split(":")
    server = WSGIServer((host, int(port)), Quiet, bind_and_activate=False)
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS"):
        server.socket.close()
        server.socket = socket.socket(fileno=3)
    else:
        server.server_bind()
        server.server_activate()
    server.server_name, server.server_port = host, int(port)
    server.setup_environ()
    server.set_app(lambda *request: app.application(*request))
    server.timeout = 0

    # Signals become bytes that are waited for beside connections, so that none
    # interrupts a request.
    told, tell = socket.socketpair()
    tell.setblocking(False)
    signal.set_wakeup_fd(tell.fileno())
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    ready = selectors.DefaultSelector()
    ready.register(told, selectors.EVENT_READ)
    ready.register(server.socket, selectors.EVENT_READ)
    notify("READY=1")
    while True:
        for key, _ in ready.select():
            if key.fileobj is server.socket:
                server.handle_request()
                continue
            if signal.SIGTERM in told.recv(64):
                return
            importlib.reload(app)


main()
