# The programs, all of one Go module: they share their libraries, so nothing compiles twice.

build() {
    local packages=(
        k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy,kubectl}
        helm.sh/helm/v4/cmd/helm
        github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr}
        go.etcd.io/etcd/server/v3
        ./coredns ./loadbalancer
    )
    # Without it the server calls itself v0.0.0, and charts that ask for a Kubernetes version refuse it.
    local stamp="-s -w -X k8s.io/component-base/version.gitVersion=v$version"
    stamp+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"
    command -v go >/dev/null || fail "Go is missing: install 1.26 or later from https://go.dev/dl"
    mkdir -p "$programs.new"
    (cd "$here" && CGO_ENABLED=0 go build -trimpath -tags no_btrfs,no_devmapper,no_zfs -ldflags "$stamp" -o "$programs.new/" "${packages[@]}")
    rm -rf "$programs"
    mv "$programs.new" "$programs"
}
