#!/bin/sh
# Run in a stage of the Containerfile:  install.sh LOCK  or  install.sh wheel [PYTHON]
#
# Installs /opt/extra-rl/locks/LOCK.lock into /opt/extra-rl, or this project's own wheel. Then PYTHON imports the modules
# that the image runs, so that exactly these are compiled here: containers cannot write to the file system.
set -eu

uv=/tools/venv/bin/uv
# The cache is mounted, and is on another file system than the image.
export UV_CACHE_DIR=/cache UV_LINK_MODE=copy UV_SYSTEM_CERTS=1 UV_NO_PROGRESS=1
[ -n "${UV_FIND_LINKS:-}" ] || unset UV_FIND_LINKS

[ -x /opt/extra-rl/bin/python ] || python3.11 -m venv --without-pip /opt/extra-rl

if [ "$1" = wheel ]; then
  "$uv" pip install --python /opt/extra-rl/bin/python --no-cache --no-deps --no-index /opt/extra-rl/wheel/*.whl
  env -u PYTHONDONTWRITEBYTECODE TORCHDYNAMO_DISABLE=1 /opt/extra-rl/bin/python -c "import extra_cli; ${2:-}"
  # Caches of torch's compiler and of similar tools.
  rm -rf /tmp/*
  exit
fi

# Packages that come as source are built only with the build tools of the lock.
set -- --require-hashes --requirement "/opt/extra-rl/locks/$1.lock" --build-constraint /tools/build.lock
[ -z "${TORCH_BACKEND:-}" ] || set -- "$@" --torch-backend "$TORCH_BACKEND"
"$uv" pip install --python /opt/extra-rl/bin/python --no-deps "$@"
