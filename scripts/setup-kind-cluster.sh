#!/usr/bin/env bash
# Makes a kind cluster for the gateway, or leaves the one that is there. The proxy will be on
# 127.0.0.1:30800 and the admin API on 127.0.0.1:30801 of this machine.
#
#   setup-kind-cluster.sh [--name NAME] [--dry-run]
#
#   --name NAME   the cluster's name; default gluetun
#   --dry-run     print what would be done
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

name=gluetun
while [ $# -gt 0 ]; do
    case $1 in
        --name) value "$1" 'a name' "${2-}"; name=$2; shift ;;
        --dry-run) dry=1 ;;
        -h | --help) usage; exit ;;
        *) wrong "unknown argument '$1'" ;;
    esac
    shift
done

need kind 'https://kind.sigs.k8s.io/docs/user/quick-start/#installation'
need kubectl 'https://kubernetes.io/docs/tasks/tools/'
need docker 'kind runs its nodes as containers: install Docker, or Podman with KIND_EXPERIMENTAL_PROVIDER=podman'
if [ -z "$dry" ] && ! docker info >/dev/null 2>&1; then
    die 'the container engine does not answer' 'start Docker, and see that you may use it: docker info'
fi
# A node gets the devices that this machine has when the node is made.
if [ -z "$dry" ] && [ "$(uname)" = Linux ] && [ ! -c /dev/net/tun ]; then
    die 'this machine has no /dev/net/tun, which VPN pods need' 'load it first: sudo modprobe tun'
fi

config=$(
    cat <<YAML
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
  - role: control-plane
    extraPortMappings:
      - {containerPort: 30800, hostPort: 30800, listenAddress: 127.0.0.1}
      - {containerPort: 30801, hostPort: 30801, listenAddress: 127.0.0.1}
YAML
)

if [ -z "$dry" ] && kind get clusters 2>/dev/null | grep -qx "$name"; then
    say "the cluster $name is there already"
else
    [ -z "$dry" ] || printf '%s\n' "$config"
    run kind create cluster --name "$name" --wait 120s --config /dev/stdin <<<"$config"
fi
context=(--context "kind-$name")
kube wait --for=condition=Ready nodes --all --timeout=120s
say "next: scripts/build-and-load.sh --name $name"
