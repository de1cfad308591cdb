# The workers, the schedulers and everything else that is Python. See docs/telemetry.md.
FROM python:3.11.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/headrace
# The dependencies first: they change less often than the code.
COPY lock/image.lock /src/
RUN /opt/headrace/bin/pip install --no-deps --require-hashes -r /src/image.lock
COPY pyproject.toml README.md LICENSE /src/
COPY broker /src/broker
COPY middleware /src/middleware
COPY otel /src/otel
COPY dashboard /src/dashboard
COPY actors /src/actors
COPY pipelines /src/pipelines
RUN /opt/headrace/bin/pip install --no-deps --no-build-isolation /src \
 && /opt/headrace/bin/pip uninstall --yes pip setuptools

FROM python:3.11.13-slim-bookworm
ENV PATH=/opt/headrace/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/headrace /opt/headrace
# Here, once: the file system is read-only later, and each health check would compile everything it
# imports, Python's own modules too, of which the image has none compiled.
RUN python -m compileall -qf --invalidation-mode unchecked-hash -x '/usr/local/.*/site-packages/' \
    /usr/local/lib/python3.11 /opt/headrace
# A volume that is mounted here takes over whose it is.
RUN install -d -o 10001 -g 10001 /var/lib/headrace /users
WORKDIR /work
# A number, so that Kubernetes' runAsNonRoot can see that it is not root.
USER 10001:10001
# PID 1 must hand signals on: Dramatiq's main process does, no shell stands between.
CMD ["dramatiq", "actors"]
