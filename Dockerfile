# Image with the commands of the wheel, and CUDA. It runs in /work as the user gendd (1000), who writes data, pretrained
# and runs there:
#   docker build -t gendd .
#   docker run --gpus all --ipc=host -v "$PWD:/work" gendd gendd-cifar launch train --recipe resnet20
FROM python:3.12-slim-bookworm AS built
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY gendd gendd
COPY gendd_cifar gendd_cifar
COPY gendd_imagenet gendd_imagenet
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.12-slim-bookworm
# torch.compile needs gcc; shards by pipe: may use curl. Debian does not keep older versions, so none are pinned.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install --yes --no-install-recommends gcc libc6-dev curl \
  && rm -rf /var/lib/apt/lists/* \
  && pip install --no-cache-dir uv==0.13.9 \
  && useradd --uid 1000 --create-home gendd
WORKDIR /work
RUN chown gendd /work
COPY requirements.lock piplist.txt pyproject.toml /source/
# torch's wheels include CUDA's libraries. This layer changes only with the lock.
RUN uv pip install --system --no-cache --requirement /source/pyproject.toml \
  --constraint /source/requirements.lock --constraint /source/piplist.txt
COPY --from=built /wheel /wheel
RUN uv pip install --system --no-cache --no-deps /wheel/*.whl
USER 1000
CMD ["gendd", "--help"]
