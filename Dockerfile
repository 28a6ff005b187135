# Lakeward alone: a compiler's image builds it, the result has the binary and certificates, and is not root.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin lakeward && cp target/release/lakeward /usr/local/bin/lakeward

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home lakeward \
    && install -d -o lakeward -g lakeward /lake
COPY --from=build /usr/local/bin/lakeward /usr/local/bin/lakeward
USER lakeward
WORKDIR /home/lakeward
VOLUME /lake
ENV LAKEWARD__LAKE__URL=/lake
EXPOSE 8080
ENTRYPOINT ["lakeward"]
