#!/usr/bin/env bash
# Removes the gateway, its sessions and their VPN pods. The namespace and the Secrets in it stay, unless --all is
# given.
#
#   undeploy.sh [--overlay NAME] [--all] [--context NAME] [--dry-run]
#
#   --overlay NAME   what was deployed: kind (default), minikube, production or base
#   --all            the namespace too, with the VPN key and the users file
#   --context NAME   the cluster, as kubectl knows it; default its current one
#   --dry-run        print what would be done
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

overlay=kind all=
while [ $# -gt 0 ]; do
    case $1 in
        --overlay) value "$1" 'a name' "${2-}"; overlay=$2; shift ;;
        --all) all=1 ;;
        --context) value "$1" 'a name' "${2-}"; context=(--context "$2"); shift ;;
        --dry-run) dry=1 ;;
        -h | --help) usage; exit ;;
        *) wrong "unknown argument '$1'" ;;
    esac
    shift
done
tree=$(tree "$overlay")
need kubectl 'https://kubernetes.io/docs/tasks/tools/'
reachable

if [ -z "$dry" ] && ! ask get namespace "$namespace" -o name >/dev/null; then
    say "there is no namespace $namespace"
fi
# The gateway first: it would make its pods anew.
kube -n "$namespace" delete deployment gluetun-gateway --ignore-not-found
kube -n "$namespace" delete pods -l app.kubernetes.io/name=gluetun-gateway --ignore-not-found --timeout=400s
kube -n "$namespace" delete leases -l app.kubernetes.io/managed-by=gluetun-gateway --ignore-not-found
kube -n "$namespace" delete lease gluetun-gateway-leader --ignore-not-found
kube -n "$namespace" delete jobs gluetun-gateway-servers --ignore-not-found
kube -n "$namespace" delete pods -l app=gluetun-vpn --ignore-not-found --timeout=60s
# All the rest but the namespace.
if [ -n "$dry" ]; then
    printf '+ kubectl kustomize %q (without the namespace) | kubectl delete --ignore-not-found -f -\n' "$tree"
else
    kubectl kustomize "$tree" \
        | awk '/^---$/ { if (!skip) printf "%s---\n", doc; doc = ""; skip = 0; next }
               /^kind: Namespace$/ { skip = 1 }
               { doc = doc $0 "\n" }
               END { if (!skip) printf "%s", doc }' \
        | kubectl ${context[@]+"${context[@]}"} delete --ignore-not-found -f -
fi
if [ -n "$all" ]; then
    kube delete namespace "$namespace" --ignore-not-found --timeout=120s
else
    say "the namespace $namespace and the Secrets in it stay; --all removes them"
fi
