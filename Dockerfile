# The gateway. Build it from the root of the repository: docker build -t hoop:0.1.0 .
# Runs as user 10001 with a read-only root: only /var/lib/hoop (store, recordings, log key) is written.

FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/hoop
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY core core
COPY hoop_airflow hoop_airflow
COPY hoop_dagster hoop_dagster
COPY example_dags example_dags
# every wheel that is needed exists for this platform: no compiler, here or below
RUN /opt/hoop/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: \
      --no-binary hoop-guard --constraint constraints.txt ".[postgres,otel]" \
 && /opt/hoop/bin/pip uninstall --yes pip

FROM python:3.11-slim
RUN groupadd --system --gid 10001 hoop \
 && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/hoop --shell /usr/sbin/nologin hoop \
 && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/hoop
COPY --from=build /opt/hoop /opt/hoop
ENV PATH=/opt/hoop/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOOP_CONFIG=/etc/hoop/hoop.toml
USER 10001:10001
WORKDIR /var/lib/hoop
VOLUME ["/var/lib/hoop"]
EXPOSE 8750 8751
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8751/healthz', timeout=4).read()"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["hoop"]
CMD ["serve"]
