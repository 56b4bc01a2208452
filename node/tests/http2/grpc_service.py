"""A gRPC server and a client of it, both of grpcio: what passes between them must pass as if nothing were between.

    grpc_service.py serve            writes the port it serves on, and serves until its standard input ends
    grpc_service.py call TARGET NAME calls it through the gateway at TARGET, where it is the service NAME
"""

import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "paceline.test.Echo"
BIG = bytes(range(256)) * 8192  # 2 MiB
LIMITS = [("grpc.max_receive_message_length", 16 << 20), ("grpc.max_send_message_length", 16 << 20)]


class Echo(grpc.GenericRpcHandler):
    """Messages are plain bytes: no code needs to be generated."""

    def __init__(self):
        self.cancelled = 0
        self.lock = threading.Lock()

    def unary(self, request, context):
        seen = dict(context.invocation_metadata())
        context.send_initial_metadata((("x-first", "head"),))
        context.set_trailing_metadata((("x-last", "trailer"), ("x-sum-bin", bytes([0, 255, 7]))))
        return request + b"|" + str(seen.get("x-mine", "")).encode()

    def split(self, request, context):
        for piece in request.split(b" "):
            yield piece

    def join(self, requests, context):
        return b" ".join(requests)

    def chat(self, requests, context):
        for request in requests:
            yield request.upper()

    def fail(self, request, context):
        context.set_trailing_metadata((("x-why", "because"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: \u00e4 %")

    def fail_late(self, request, context):
        yield b"one"
        context.abort(grpc.StatusCode.DATA_LOSS, "the rest is lost")

    def wait(self, request, context):
        gone = threading.Event()
        if not context.add_callback(gone.set):
            gone.set()
        gone.wait(30)
        with self.lock:
            self.cancelled += 1
        return b""

    def endless(self, request, context):
        while context.is_active():
            yield b"tick"
            time.sleep(0.01)
        with self.lock:
            self.cancelled += 1

    def count(self, request, context):
        with self.lock:
            return str(self.cancelled).encode()

    def service(self, details):
        method = details.method.rsplit("/", 1)[1]
        kinds = {
            "unary": grpc.unary_unary_rpc_method_handler,
            "split": grpc.unary_stream_rpc_method_handler,
            "join": grpc.stream_unary_rpc_method_handler,
            "chat": grpc.stream_stream_rpc_method_handler,
            "fail": grpc.unary_unary_rpc_method_handler,
            "fail_late": grpc.unary_stream_rpc_method_handler,
            "wait": grpc.unary_unary_rpc_method_handler,
            "endless": grpc.unary_stream_rpc_method_handler,
            "count": grpc.unary_unary_rpc_method_handler,
        }
        if details.method != f"/{SERVICE}/{method}" or method not in kinds:
            return None
        return kinds[method](getattr(self, method))


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=LIMITS)
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(0)


def expect(what, got, want):
    if got != want:
        raise SystemExit(f"{what}: {got!r}, not {want!r}")
    print(f"ok: {what}", flush=True)


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise SystemExit("it should have failed")


class Named(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """What a user writes once: every call names its service."""

    def __init__(self, name):
        self.name = name

    def _call(self, proceed, details, request):
        metadata = list(details.metadata or []) + [("x-paceline-service", self.name)]
        return proceed(details._replace(metadata=metadata), request)

    intercept_unary_unary = _call
    intercept_unary_stream = _call
    intercept_stream_unary = _call
    intercept_stream_stream = _call


def call(target, name):
    plain = grpc.insecure_channel(target, options=LIMITS)
    # By its path, and as generated code calls it.
    all_kinds(plain, f"/api/service/{name}/{SERVICE}", "by path")
    all_kinds(grpc.intercept_channel(plain, Named(name)), f"/{SERVICE}", "by name")
    nowhere = grpc.intercept_channel(plain, Named("nowhere"))
    error = failure(lambda: nowhere.unary_unary(f"/{SERVICE}/unary")(b"", timeout=10))
    expect("a service that nobody offers", error.code(), grpc.StatusCode.UNAVAILABLE)


def all_kinds(channel, base, how):
    unary = channel.unary_unary(f"{base}/unary")
    response, known = unary.with_call(b"hello", metadata=(("x-mine", "yes"),), timeout=10)
    expect(f"{how}: unary", response, b"hello|yes")
    expect(f"{how}: a head's metadata", dict(known.initial_metadata()).get("x-first"), "head")
    trailers = dict(known.trailing_metadata())
    expect(f"{how}: trailers", (trailers.get("x-last"), trailers.get("x-sum-bin")), ("trailer", bytes([0, 255, 7])))
    expect(f"{how}: nothing", unary(b"", timeout=10), b"|")
    expect(f"{how}: 2 MiB both ways", unary(BIG, timeout=20) == BIG + b"|", True)

    split = channel.unary_stream(f"{base}/split")
    expect(f"{how}: server streaming", list(split(b"a b c", timeout=10)), [b"a", b"b", b"c"])
    join = channel.stream_unary(f"{base}/join")
    expect(f"{how}: client streaming", join(iter([b"a", b"b", b"c"]), timeout=10), b"a b c")
    expect(f"{how}: 14 MiB in", len(join((BIG for _ in range(7)), timeout=30)), 7 * len(BIG) + 6)

    # Each message is sent only when the last one has come back: nothing may be held.
    turn = threading.Semaphore(1)

    def said():
        for word in [b"ping", b"pong", b"bye"]:
            turn.acquire()
            yield word

    heard = []
    for word in channel.stream_stream(f"{base}/chat")(said(), timeout=10):
        heard.append(word)
        turn.release()
    expect(f"{how}: both streaming, in turns", heard, [b"PING", b"PONG", b"BYE"])

    error = failure(lambda: channel.unary_unary(f"{base}/fail")(b"", timeout=10))
    expect(f"{how}: a status", (error.code(), error.details()),
           (grpc.StatusCode.FAILED_PRECONDITION, "not now: \u00e4 %"))
    expect(f"{how}: its trailers", dict(error.trailing_metadata()).get("x-why"), "because")
    got = []
    error = failure(lambda: got.extend(channel.unary_stream(f"{base}/fail_late")(b"", timeout=10)))
    expect(f"{how}: a status after messages", error.code(), grpc.StatusCode.DATA_LOSS)
    error = failure(lambda: channel.unary_unary(f"{base}/nothing")(b"", timeout=10))
    expect(f"{how}: no such method", error.code(), grpc.StatusCode.UNIMPLEMENTED)

    count = channel.unary_unary(f"{base}/count")
    before = int(count(b"", timeout=10))
    error = failure(lambda: channel.unary_unary(f"{base}/wait")(b"", timeout=0.3))
    expect(f"{how}: a deadline", error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    stream = channel.unary_stream(f"{base}/endless")(b"")
    expect(f"{how}: an endless stream begins", next(stream), b"tick")
    stream.cancel()
    waiting = channel.unary_unary(f"{base}/wait").future(b"")
    waiting.cancel()
    began = time.monotonic()
    while int(count(b"", timeout=10)) < before + 2:
        if time.monotonic() - began > 10:
            raise SystemExit("the server was not told of deadline and cancellation")
        time.sleep(0.05)
    print(f"ok: {how}: the server was told of deadline and cancellation", flush=True)

    calls = [unary.future(str(i).encode(), timeout=20) for i in range(300)]
    expect(f"{how}: 300 at once", [c.result() for c in calls], [str(i).encode() + b"|" for i in range(300)])


if __name__ == "__main__":
    serve() if sys.argv[1] == "serve" else call(*sys.argv[2:])
