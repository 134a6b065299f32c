# rerankit serve on CPU, with the pinned versions of constraints.txt.
#
#   docker build -t rerankit --build-arg TORCH_INDEX=<PyTorch's index of CPU builds> .
#   docker run -p 8787:8787 -e RERANKIT_API_KEYS=... rerankit
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# An index of CPU builds of torch keeps several gigabytes of CUDA out; PIP_INDEX_URL is a mirror for everything else.
ARG TORCH_INDEX
ARG PIP_INDEX_URL
WORKDIR /src
RUN python -m venv /opt/rerankit
COPY constraints.txt ./
RUN /opt/rerankit/bin/pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY rerankit ./rerankit
RUN /opt/rerankit/bin/pip install -c constraints.txt '.[embedded,openvino,chroma,server]'

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 rerankit
COPY --from=build /opt/rerankit /opt/rerankit
ENV PATH=/opt/rerankit/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false \
    RERANKIT_CACHE=/var/cache/rerankit
RUN install -d -o rerankit /var/cache/rerankit
USER rerankit
# The models are converted while the image is built, so that the first start is quick and needs to write nothing.
RUN echo '{"query": "ready?", "passages": ["ready"]}' | rerankit rank > /dev/null
EXPOSE 8787
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8787/readyz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["rerankit", "serve", "--host", "0.0.0.0", "--port", "8787"]
