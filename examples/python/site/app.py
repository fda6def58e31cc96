"""A WSGI application that answers its build."""

BUILD = 200


def health():
    return "ok"


def application(environ, start_response):
    if environ["PATH_INFO"] == "/healthz":
        status, text = "200 OK", health()
    else:
        status, text = "200 OK", str(BUILD)
    body = (text + "\n").encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
