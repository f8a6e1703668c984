#!/usr/bin/env bash
# Builds the gateway's image and puts it into a local cluster.
#
#   build-and-load.sh [--image NAME:TAG] [--name NAME | --minikube | --no-load] [--dry-run]
#
#   --image NAME:TAG   default gluetun-gateway:dev, which overlays/kind and overlays/minikube use
#   --name NAME        the kind cluster; default gluetun
#   --minikube         into minikube instead
#   --no-load          build only
#   --dry-run          print what would be done
#
# The first build takes some minutes; later ones compile only what changed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

image=gluetun-gateway:dev name=gluetun into=kind
while [ $# -gt 0 ]; do
    case $1 in
        --image) value "$1" 'a name' "${2-}"; image=$2; shift ;;
        --name) value "$1" 'a name' "${2-}"; name=$2; shift ;;
        --minikube) into=minikube ;;
        --no-load) into= ;;
        --dry-run) dry=1 ;;
        -h | --help) usage; exit ;;
        *) wrong "unknown argument '$1'" ;;
    esac
    shift
done

need docker 'https://docs.docker.com/engine/install/'
case $into in
    kind)
        need kind 'https://kind.sigs.k8s.io/docs/user/quick-start/#installation'
        if [ -z "$dry" ] && ! kind get clusters 2>/dev/null | grep -qx "$name"; then
            die "there is no kind cluster $name" "make it: scripts/setup-kind-cluster.sh --name $name"
        fi
        ;;
    minikube) need minikube 'https://minikube.sigs.k8s.io/docs/start/' ;;
esac

# BuildKit, for the caches that the Dockerfile mounts.
run env DOCKER_BUILDKIT=1 docker build --tag "$image" \
    --build-arg "REVISION=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)" "$root"
case $into in
    kind) run kind load docker-image "$image" --name "$name" ;;
    minikube) run minikube image load "$image" ;;
esac
say 'next: scripts/deploy.sh --help'
