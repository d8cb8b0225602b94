# syntax=docker/dockerfile:1
# The aggregator: the core alone, without torch. Built from the checkout's root:
#
#   docker build -f deploy/docker/aggregator.Dockerfile -t fedit-aggregator .
#
# Pin the base by its digest, where builds have to be the same: --build-arg
# BASE=python@sha256:...

ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY constraints.txt ./
# What the wheel is built with, and what it needs: as they were tested.
RUN python -m venv /opt/fedit \
    && /opt/fedit/bin/pip install -c constraints.txt setuptools
COPY pyproject.toml README.md LICENSE ./
COPY fedit_secure fedit_secure
RUN /opt/fedit/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /opt/fedit/bin/pip install -c constraints.txt "$(echo /wheel/*.whl)[web]" \
    && /opt/fedit/bin/pip uninstall --yes setuptools pip

FROM ${BASE}
LABEL org.opencontainers.image.title="fedit-secure aggregator" \
      org.opencontainers.image.licenses="Apache-2.0"
# No account of a person, no shell, no home: it owns its state, and nothing of the image.
RUN groupadd --gid 10001 fedit \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/fedit \
        --shell /usr/sbin/nologin fedit \
    && install -d -m 0700 -o fedit -g fedit /var/lib/fedit
COPY --from=build /opt/fedit /opt/fedit
ENV PATH=/opt/fedit/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FEDIT_STATE=/var/lib/fedit \
    FEDIT_HEALTH=127.0.0.1:7444
USER 10001:10001
# The folder that `fedit aggregator init` made is mounted here, the state there. The image
# holds neither, nor any key.
WORKDIR /fedit
VOLUME /var/lib/fedit
EXPOSE 7443
STOPSIGNAL SIGTERM
# grpc.health.v1, within the container alone.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=4 \
    CMD ["python", "-m", "fedit_secure.wire.ask_health", "127.0.0.1:7444"]
ENTRYPOINT ["fedit"]
CMD ["aggregator", "serve", "/fedit/aggregator.yaml"]
