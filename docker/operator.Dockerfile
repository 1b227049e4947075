# The operator's image. From the repository's root:
#   docker build -f docker/operator.Dockerfile -t registry.example/penstock/penstock-operator:0.1.0 .
# docs/install.md says how to build it twice with the same result.

# The tag fixes the compiler and Debian's release; a digest fixes every byte of both:
#   --build-arg RUST_IMAGE=rust:1.95-bookworm@sha256:…
ARG RUST_IMAGE=rust:1.95-bookworm

FROM ${RUST_IMAGE} AS build
COPY . /src
# Both binaries, word for word as in the other Dockerfile, so that the second image finds
# them built. librdkafka is built from source; it finds the image's OpenSSL and zlib.
RUN cd /src && pkg-config --exists openssl zlib \
    && cargo build --release --locked --package penstock-operator --package penstock-runtime --bins \
    && strip target/release/penstock-operator target/release/penstock-runtime
# The files are of 1970, and SOURCE_DATE_EPOCH is the image's time alone: Docker would take
# a layer whose files differ only in their times from its cache. No WORKDIR above, for it
# depends on that time, and would compile anew for another.
RUN cd /src && docker/rootfs target/release/penstock-operator /rootfs

# Nothing but what the binary needs: no shell, no package manager.
FROM scratch
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Penstock operator" \
      org.opencontainers.image.description="Runs the pods of KafkaConsumers" \
      org.opencontainers.image.url="https://penstock.dev" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /rootfs/ /
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
# Health and metrics.
EXPOSE 8080
USER 65532:65532
ENTRYPOINT ["/penstock-operator"]
