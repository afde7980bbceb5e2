# NeuralMM on a CPU. Its default command is the main job: train, then judge.
#
#   docker build -t neuralmm .
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" neuralmm
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" neuralmm neuralmm zoo play brownian
#
# --build-arg PIP_OPTIONS=... is given to pip, such as an index of torch's CPU builds: smaller by gigabytes.
FROM python:3.12-slim
ARG PIP_OPTIONS=""
COPY . /src
RUN pip install --no-cache-dir $PIP_OPTIONS --constraint /src/constraints.txt /src && rm -rf /src
# Compiled for the processor that builds the image; another one compiles anew. Any user may add to it.
ENV NUMBA_CACHE_DIR=/var/cache/neuralmm
RUN neuralmm warm && chmod -R a+rwX $NUMBA_CACHE_DIR
WORKDIR /work
CMD ["neuralmm", "train"]
