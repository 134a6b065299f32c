"""What an LLM agent sees of `rerankit mcp`: its tools, and what they give. Needs rerankit[embedded,chroma,mcp].

python mcp_client.py "When are sheep shorn?"
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile

from mcp import Client, StdioServerParameters

import rerankit
from rerankit.samples import farm

SAMPLE = "How deep should I sow wheat into dry soil?"


async def ask(store: str, question: str) -> None:
    """One conversation with the server."""
    command = ["-m", "rerankit.cli", "mcp", "--store", store]
    async with Client(StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))) as client:
        for tool in (await client.list_tools()).tools:
            print(f"{tool.name:8} {tool.description}")

        answer = (await client.call_tool("ask", {"question": question})).structured_content or {}
        print("\n" + answer["answer"])
        for source in answer["citations"]:
            print(f"[{source['number']}] {source['passage_id']}: {source['quote']}")

        arguments = {"question": question, "rerankers": ["none", "lexical", "default"], "top_k": 3}
        compared = (await client.call_tool("compare", arguments)).structured_content or {}
        titles = {passage["index"]: passage["title"] or passage["id"] for passage in compared["passages"]}
        for order in compared["orders"]:
            print(f"\n{order['reranker']} ({1000 * order['seconds']:.0f} ms)")
            print(*(f"  {rank} {titles[index]}" for rank, index in enumerate(order["top"], 1)), sep="\n")


with tempfile.TemporaryDirectory() as folder:
    with rerankit.ChromaRetriever(folder) as retriever:
        retriever.index(farm.passages())
    asyncio.run(ask(folder, sys.argv[1] if len(sys.argv) > 1 else SAMPLE))
