# syntax=docker/dockerfile:1
# A silo, for a CPU or with CUDA. Built from the checkout's root:
#
#   docker build -f deploy/docker/silo.Dockerfile -t fedit-silo .
#   docker build -f deploy/docker/silo.Dockerfile -t fedit-silo:cuda --build-arg FLAVOUR=cuda .
#
# Pin the base by its digest, where builds have to be the same: --build-arg
# BASE=python@sha256:... A CUDA image needs no CUDA in its base: torch's wheels bring it, and
# the container runtime brings the driver.

ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
ARG FLAVOUR=cpu
# Where torch's builds are; CUDA names the one for the driver that the machines have.
ARG CUDA=cu130
ARG TORCH_INDEX=https://download.pytorch.org/whl
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY constraints.txt ./
# torch first: the others then take the build that is there. What the wheel is built with,
# and what it needs: as they were tested.
RUN python -m venv /opt/fedit \
    && case "${FLAVOUR}" in cpu) build=cpu ;; cuda) build="${CUDA}" ;; \
        *) echo "FLAVOUR is cpu or cuda, not ${FLAVOUR}" >&2; exit 4 ;; esac \
    && /opt/fedit/bin/pip install --no-deps --index-url "${TORCH_INDEX}/${build}" \
        "$(grep '^torch==' constraints.txt)" \
    && /opt/fedit/bin/pip install -c constraints.txt setuptools
COPY pyproject.toml README.md LICENSE ./
COPY fedit_secure fedit_secure
RUN if [ "${FLAVOUR}" = cuda ]; then extras=silo,web,quantised; else extras=silo,web; fi \
    && /opt/fedit/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /opt/fedit/bin/pip install -c constraints.txt "$(echo /wheel/*.whl)[${extras}]" \
    && /opt/fedit/bin/pip uninstall --yes pip

FROM ${BASE}
LABEL org.opencontainers.image.title="fedit-secure silo" \
      org.opencontainers.image.licenses="Apache-2.0"
# No account of a person, no shell, no home: it owns its state, and nothing of the image.
RUN groupadd --gid 10001 fedit \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/fedit \
        --shell /usr/sbin/nologin fedit \
    && install -d -m 0700 -o fedit -g fedit /var/lib/fedit
COPY --from=build /opt/fedit /opt/fedit
# What libraries keep of records that they read goes where the state is: it is as private.
# Nothing is fetched from a hub, unless this says otherwise.
ENV PATH=/opt/fedit/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FEDIT_STATE=/var/lib/fedit \
    HF_HOME=/var/lib/fedit/cache \
    HF_HUB_OFFLINE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
# The folder that `fedit silo init` made is mounted here, the state there. The image holds
# neither, nor any key or record.
WORKDIR /fedit
VOLUME /var/lib/fedit
STOPSIGNAL SIGTERM
# It opens no port to anybody else. Where FEDIT_PAGE__LISTEN has the page on, its /healthz is
# asked, which costs next to nothing; else its books can be read, and are whole.
HEALTHCHECK --interval=1m --timeout=60s --start-period=30m --retries=3 \
    CMD ["/bin/sh", "-c", "test -z \"${FEDIT_PAGE__LISTEN:-}\" \
        || exec python -m fedit_secure.watch.ask_healthz \"${FEDIT_PAGE__LISTEN}\"; \
        exec fedit silo status /fedit/silo.yaml"]
ENTRYPOINT ["fedit"]
CMD ["silo", "serve", "/fedit/silo.yaml"]
