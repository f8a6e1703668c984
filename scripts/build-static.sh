#!/usr/bin/env bash
# Builds the gateway for the image: optimised as a whole, without the embedded cluster, linked statically against
# glibc, so that it runs in an image with nothing else in it. The Dockerfile does it with this very script.
#
#   build-static.sh [--arch amd64|arm64] [--target-dir DIR] [--dry-run]
#
#   --arch ARCH        default this machine's; another one needs rustup's target and Debian's cross compiler
#                      (gcc-aarch64-linux-gnu, gcc-x86-64-linux-gnu)
#   --target-dir DIR   where cargo builds; default target
#   --dry-run          print what would be done
#
# The program's path is printed at the end.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

arch='' target_dir=${CARGO_TARGET_DIR:-$root/target}
while [ $# -gt 0 ]; do
    case $1 in
        --arch) value "$1" 'a name' "${2-}"; arch=$2; shift ;;
        --target-dir) value "$1" 'a directory' "${2-}"; target_dir=$2; shift ;;
        --dry-run) dry=1 ;;
        -h | --help) usage; exit ;;
        *) wrong "unknown argument '$1'" ;;
    esac
    shift
done
machine=$(uname -m)
case ${arch:-$machine} in
    amd64 | x86_64) cpu=x86_64 compiler=x86_64-linux-gnu-gcc ;;
    arm64 | aarch64) cpu=aarch64 compiler=aarch64-linux-gnu-gcc ;;
    *) wrong "no architecture '${arch:-$machine}': amd64 or arm64" ;;
esac
triple=$cpu-unknown-linux-gnu
need cargo 'https://rustup.rs'

# The system call for random numbers, by itself: looked up at run time, as by default, a static program does not find it, and
# would need /dev/urandom.
settings=("RUSTFLAGS=-C target-feature=+crt-static --cfg getrandom_backend=\"linux_getrandom\"")
if [ "$cpu" != "$machine" ]; then
    need "$compiler" "apt-get install gcc-${cpu//_/-}-linux-gnu"
    name=${triple//-/_}
    settings+=("CARGO_TARGET_${name^^}_LINKER=$compiler" "CC_$name=$compiler")
fi
# Kernels for arm64 have pages of up to 64 KiB, and jemalloc is built for one size at most.
[ "$cpu" != aarch64 ] || settings+=(JEMALLOC_SYS_WITH_LG_PAGE=16)
# With --target, so that the flags are for the program and not for what only helps to build it.
run env "${settings[@]}" cargo build --locked --profile dist --no-default-features --features jemalloc --bin gluetun-gateway \
    --manifest-path "$root/Cargo.toml" --target "$triple" --target-dir "$target_dir"
echo "$target_dir/$triple/dist/gluetun-gateway"
