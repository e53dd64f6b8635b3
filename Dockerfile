# Image of the project with CUDA. It runs as the user gendd; mount data, pretrained and runs:
#   docker build -t gendd .
#   docker run --gpus all --ipc=host -v "$PWD/data:/gendd/data" -v "$PWD/pretrained:/gendd/pretrained" \
#     -v "$PWD/runs:/gendd/runs" gendd bash sh/train_cifar100_resnet56_resnet20_gendd.sh
FROM python:3.12-slim-bookworm
# torch.compile needs gcc; webdataset's pipes may use curl. Debian does not keep older versions, so none are pinned.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install --yes --no-install-recommends gcc libc6-dev curl git \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /gendd
COPY requirements.lock piplist.txt ./
# torch's wheels include CUDA's libraries.
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock \
  && pip install --no-cache-dir -r piplist.txt
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . \
  && useradd --create-home --uid 1000 gendd \
  && mkdir -p data pretrained runs cache \
  && chown -R gendd data pretrained runs cache
USER 1000
# The scripts use this Python.
ENV VENV=/usr/local
CMD ["bash", "sh/quickstart.sh"]
