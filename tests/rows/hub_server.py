"""A small hub: the few addresses that `datasets` asks for, served from a folder on this machine."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "abcd"


@contextmanager
def serve(datasets, gated=()):
    """The address of a hub that has the folders `datasets`, by name; nobody may read the gated."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def handle_request(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, answer = answer_to(unquote(urlsplit(self.path).path), body)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(answer))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_HEAD = do_POST = handle_request

    def answer_to(path, body):
        for name in gated:
            if f"datasets/{name}" in path:
                return 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"}, b""
        for name, folder in datasets.items():
            if path.startswith(f"/api/datasets/{name}"):
                return json_answer(folder, name, path, body)
            if path.startswith(f"/datasets/{name}/resolve/"):
                return file_answer(folder, path.split("/", 6)[-1])
        if path.startswith(("/api/datasets/", "/datasets/")):
            return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such"}, b""
        return 404, {}, b""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def file_answer(folder, name):
    path = folder / name
    if not path.is_file():
        return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
    data = path.read_bytes()
    etag = hashlib.sha256(data).hexdigest()
    return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "none"}, data


def json_answer(folder, name, path, body):
    rest = path.removeprefix(f"/api/datasets/{name}")
    if rest.startswith("/tree/"):
        under = "/".join(rest.split("/")[3:])
        value = [described(folder, p) for p in sorted((folder / under).rglob("*"))]
    elif rest.startswith("/paths-info/"):
        wanted = [folder / p for p in json.loads(body)["paths"]]
        value = [described(folder, path) for path in wanted if path.exists()]
    else:
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        value = {
            "id": name,
            "sha": COMMIT,
            "siblings": [{"rfilename": str(path.relative_to(folder))} for path in files],
        }
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def described(folder, path):
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0" * 40}
    data = path.read_bytes()
    return {"type": "file", "path": name, "oid": hashlib.sha1(data).hexdigest(), "size": len(data)}
