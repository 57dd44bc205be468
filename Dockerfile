# The package with its commands, on a GPU or on a CPU. docs/how-to/run-in-a-container.md says how to use it.
#
#   docker build -t nnunetv2-stitch .                                    # CUDA; runs on a CPU too
#   docker build -t nnunetv2-stitch --build-arg TORCH_INDEX=URL .        # URL of PyTorch's CPU wheels: 5 GB smaller
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# torch and torchvision come from one place: a CPU torch beside another torchvision does not work. Left empty, pip takes
# both with the package below, and on Linux they bring CUDA.
ARG TORCH_INDEX=""
# hadolint ignore=DL3013
RUN if [ -n "${TORCH_INDEX}" ]; then \
      pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch>=2.6" torchvision; \
    fi

# Only what an installation needs, so that changes of tests and pages do not install everything anew.
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE /source/
COPY nnunetv2_stitch /source/nnunetv2_stitch
COPY trainers /source/trainers
COPY entrypoints /source/entrypoints
# hadolint ignore=DL3013
RUN pip install --no-cache-dir /source

# nnU-Net compiles networks for CUDA unless told not to, and that takes a C compiler, which a slim image lacks.
ENV nnUNet_compile=false \
    nnUNet_raw=/data/nnUNet_raw \
    nnUNet_preprocessed=/data/nnUNet_preprocessed \
    nnUNet_results=/data/nnUNet_results \
    MPLCONFIGDIR=/tmp/matplotlib

RUN useradd --uid 10001 --create-home nnunet && mkdir /data && chown nnunet /data
USER 10001
WORKDIR /data
CMD ["bash"]
