# An image of about 400 MB that uses models on the CPU: no torch, no CUDA. docs/deployment.md has examples.
#
#     docker build -t cnnkit .
#     docker run --rm -v "$PWD:/data" cnnkit cnn-predict -m model.onnx photos
#
# On a GPU: --build-arg REQUIREMENTS=predict-gpu.txt, several GB, and docker run --gpus all.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG REQUIREMENTS=predict.txt
# Without pip of its own: the pip of the image installs into it
RUN python -m venv --without-pip /opt/cnnkit
COPY requirements /src/requirements
RUN pip --python /opt/cnnkit/bin/python install --no-cache-dir -r /src/requirements/${REQUIREMENTS}
COPY pyproject.toml README.md LICENSE /src/
COPY docs/man /src/docs/man
COPY tools /src/tools
COPY cnnkit /src/cnnkit
RUN pip --python /opt/cnnkit/bin/python install --no-cache-dir --no-deps /src

FROM python:${PYTHON}-slim
COPY --from=build /opt/cnnkit /opt/cnnkit
# /cache is writable for every user, so that docker run --user works too
RUN useradd --create-home --uid 1000 cnnkit && install -d -m 1777 /cache /data
ENV PATH=/opt/cnnkit/bin:$PATH CNNKIT_CACHE=/cache
USER 1000
WORKDIR /data
CMD ["cnn-predict", "--help"]
