# The command on a CPU: docker build -t fgvc-kit . && docker run --rm -v "$PWD:/work" fgvc-kit fit birds/ --budget latency=8ms
# Give --build-arg TORCH_INDEX=URL, the index of CPU wheels that PyTorch's install page names: the plain wheel of torch
# brings gigabytes of CUDA along.
FROM python:3.11-slim
ARG TORCH_INDEX=""
WORKDIR /source
COPY . .
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt \
      "$(grep '^torch==' constraints.txt)${TORCH_INDEX:++cpu}" . \
    && rm -rf /source
RUN useradd --create-home --uid 1000 user
USER 1000
WORKDIR /work
ENTRYPOINT ["fgvc-kit"]
CMD ["--help"]
