"""The instant server's other protocol: Triton's HTTP with binary tensors, a thread a connection."""

from __future__ import annotations

import json
import socketserver
from collections.abc import Callable
from typing import Any

from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2 as messages

HEADER_LENGTH = "inference-header-content-length"
BUFFER_BYTES = 2**20

Infer = Callable[[Any], Any]  # of a ModelInferRequest
Config = Callable[[str], Any]  # of a model, by its name


class Server(socketserver.ThreadingTCPServer):
    """Answers by `infer` and `config`, on a free port of 127.0.0.1."""

    daemon_threads = True

    def __init__(self, infer: Infer, config: Config) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self._infer, self._config = infer, config
        self._kept: dict[tuple[str, bytes], bytes] = {}

    def respond(self, path: str, head: bytes) -> bytes:
        """The whole response to a request for `path`, whose JSON part is `head`."""
        key = (path, head)
        if key not in self._kept:
            self._kept[key] = self._response(path, head)
        return self._kept[key]

    def _response(self, path: str, head: bytes) -> bytes:
        names = path.strip("/").split("/")  # v2, models, NAME, infer
        if names[-1] == "infer":
            return infer_response(self._infer(infer_request(names[2], json.loads(head))))
        if names[-1] == "config":
            fields = MessageToDict(self._config(names[2]), preserving_proto_field_name=True)
            return response(json.dumps(fields["config"]).encode())
        return response(json.dumps({"name": "instant", "version": "1"}).encode())


class Handler(socketserver.StreamRequestHandler):
    """One connection: requests until the client closes it."""

    server: Server
    rbufsize = BUFFER_BYTES
    disable_nagle_algorithm = True

    def handle(self) -> None:
        buffer = bytearray(BUFFER_BYTES)
        while line := self.rfile.readline():
            headers = self._headers()
            left, length = int(headers.get("content-length", 0)), int(headers.get(HEADER_LENGTH, 0))
            head = self.rfile.read(length)
            left -= length
            while left > 0:  # the tensors, which nobody looks at
                left -= self.rfile.readinto(memoryview(buffer)[: min(left, BUFFER_BYTES)])
            self.wfile.write(self.server.respond(line.split()[1].decode(), head))

    def _headers(self) -> dict[str, str]:
        found = {}
        while (line := self.rfile.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            found[name.strip().lower()] = value.strip()
        return found


def infer_request(model: str, head: dict[str, Any]) -> Any:
    """A ModelInferRequest without its tensors, from a request's JSON part."""
    request = messages.ModelInferRequest(model_name=model)
    for tensor in head["inputs"]:
        request.inputs.add(name=tensor["name"], shape=tensor["shape"])
    for output in head.get("outputs", ()):
        request.outputs.add(name=output["name"])
    return request


def infer_response(answer: Any) -> bytes:
    """A ModelInferResponse as HTTP has it: JSON, then the tensors."""
    outputs = [
        {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.shape),
            "parameters": {"binary_data_size": len(content)},
        }
        for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True)
    ]
    head = json.dumps({"model_name": answer.model_name, "outputs": outputs}).encode()
    return response(b"".join((head, *answer.raw_output_contents)), len(head))


def response(body: bytes, head_length: int | None = None) -> bytes:
    """An HTTP response of status 200."""
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}"]
    if head_length is None:
        lines.append("Content-Type: application/json")
    else:
        lines += ["Content-Type: application/octet-stream", f"{HEADER_LENGTH}: {head_length}"]
    return "\r\n".join([*lines, "", ""]).encode() + body
