# The tag, for machines with base images of their own; `make image BASE=pinned`, as CI does, takes the digest that
# .ci/base/Dockerfile names.
ARG BASE=python:3.13-slim
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/asm-bridge
COPY requirements.txt requirements-build.txt ./
RUN /opt/asm-bridge/bin/pip install --quiet --require-hashes -r requirements.txt && \
    python -m venv /opt/build && /opt/build/bin/pip install --quiet --require-hashes -r requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY bridge bridge
COPY schemas schemas
RUN /opt/build/bin/python -m hatchling build --target wheel --directory /wheels && \
    (cd schemas && /opt/build/bin/python -m hatchling build --target wheel --directory /wheels) && \
    /opt/asm-bridge/bin/pip install --quiet --no-deps --no-index /wheels/*.whl && \
    /opt/asm-bridge/bin/pip uninstall --quiet --yes pip && \
    /opt/asm-bridge/bin/python -m compileall -q /opt/asm-bridge/lib

FROM ${BASE}
LABEL org.opencontainers.image.title="asm-kafka-bridge" \
      org.opencontainers.image.description="TCN's Agent State Manager to Apache Kafka, and back" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 asm-bridge && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin asm-bridge
COPY --from=build /opt/asm-bridge /opt/asm-bridge
ENV PATH=/opt/asm-bridge/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 ASM_BRIDGE_OPS__LISTEN=0.0.0.0:8080
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --start-interval=2s --retries=3 \
    CMD ["python", "-m", "bridge.ops.probe"]
ENTRYPOINT ["asm-bridge"]
CMD ["run"]
