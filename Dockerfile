# The project with CUDA. Runs as a user of its own; data, pretrained and runs are mounted:
#   docker build -t gendd .
#   docker run --gpus all --ipc=host -v "$PWD/data:/gendd/data" -v "$PWD/pretrained:/gendd/pretrained" \
#     -v "$PWD/runs:/gendd/runs" gendd bash sh/train_cifar100_resnet56_resnet20_gendd.sh
FROM python:3.12-slim-bookworm
# torch.compile builds with gcc, webdataset's pipes may use curl. Debian keeps no older versions to pin.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install --yes --no-install-recommends gcc libc6-dev curl git \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /gendd
COPY requirements.lock piplist.txt ./
# The wheels of torch bring CUDA's libraries.
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock \
  && pip install --no-cache-dir -r piplist.txt
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . \
  && useradd --create-home --uid 1000 gendd \
  && mkdir -p data pretrained runs cache \
  && chown -R gendd data pretrained runs cache
USER 1000
# The scripts take this Python.
ENV VENV=/usr/local
CMD ["bash", "sh/quickstart.sh"]
