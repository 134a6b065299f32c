"""`rerankit serve` and a client that speaks Cohere's format over plain HTTP. Needs rerankit[embedded,server]."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time

import httpx

with socket.socket() as free:  # any free port; in production the server has one of its own
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]

command = [sys.executable, "-m", "rerankit.cli", "serve", "--port", str(port), "--rerank", "fast=lexical"]
server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
try:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                if client.get("/readyz").is_success:
                    break
            time.sleep(0.1)
        documents = ["Sheep are shorn in spring.", "Maize is sown 5 cm deep.", "Rust shows as orange pustules."]
        body = {"model": "fast", "query": "How deep is maize sown?", "documents": documents, "top_n": 2}
        for result in client.post("/v2/rerank", json=body).raise_for_status().json()["results"]:
            print(f"{result['relevance_score']:.3f}  {documents[result['index']]}")
finally:
    server.terminate()
    server.wait()
