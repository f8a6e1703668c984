# syntax=docker/dockerfile:1
# The gateway alone: one static program, no shell, no libraries, no root. For amd64 and arm64:
#   docker buildx build --platform linux/amd64,linux/arm64 .

# On the builder's own architecture: a cross compiler is many times faster than an emulated one.
FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS build
ARG TARGETARCH
WORKDIR /build
RUN case "$TARGETARCH" in \
        amd64) cpu=x86_64 ;; \
        arm64) cpu=aarch64 ;; \
        *) echo "no architecture '$TARGETARCH': amd64 or arm64" >&2; exit 1 ;; \
    esac \
    && rustup target add "$cpu-unknown-linux-gnu" \
    && if [ "$cpu" != "$(uname -m)" ]; then \
        apt-get update \
        && apt-get install --yes --no-install-recommends \
            "gcc-$(echo "$cpu" | tr _ -)-linux-gnu" "libc6-dev-$TARGETARCH-cross" \
        && rm -rf /var/lib/apt/lists/*; \
    fi

# The dependencies first, with a program that does nothing: this layer is built anew only when they change.
COPY scripts/lib.sh scripts/build-static.sh scripts/
COPY Cargo.toml Cargo.lock ./
RUN sed -n 's/^path = "\(.*\)"$/\1/p' Cargo.toml | while read -r file; do \
        mkdir -p "$(dirname "$file")" && echo 'fn main() {}' >"$file"; \
    done && touch src/lib.rs \
    && scripts/build-static.sh --arch "$TARGETARCH"

COPY src src
# Newer than what was built of the empty ones.
RUN touch src/lib.rs src/main.rs \
    && cp "$(scripts/build-static.sh --arch "$TARGETARCH" | tail -n 1)" /gluetun-gateway

FROM scratch
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gluetun-gateway" \
      org.opencontainers.image.description="In-cluster proxy gateway that allocates Gluetun VPN pods on demand" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /gluetun-gateway /gluetun-gateway
# No name stands for it, since there is no /etc/passwd: Kubernetes' runAsNonRoot wants a number anyway.
USER 65532:65532
EXPOSE 8080 8001
ENTRYPOINT ["/gluetun-gateway"]
